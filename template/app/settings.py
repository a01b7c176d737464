"""The settings of this service: add your own variables to `Settings`, one typed field each."""

from functools import lru_cache

from app.core.settings import CoreSettings, load


class Settings(CoreSettings):
    pass


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read from the environment once."""
    return load(Settings)
