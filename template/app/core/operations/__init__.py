"""Operations: settings, capacity, start and stop, health, logs and telemetry."""
