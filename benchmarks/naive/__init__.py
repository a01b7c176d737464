"""What is found in slow services: the ground."""
