"""Operations: capacity, the resources of a process, health, the admin port and checks."""
