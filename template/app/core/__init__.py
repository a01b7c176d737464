"""What every service needs and no domain owns; nothing in here imports from a domain."""
