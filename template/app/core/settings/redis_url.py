"""The URL of a server that speaks the Redis protocol, as a settings type."""

from typing import Annotated

from pydantic import AfterValidator, RedisDsn, SecretStr, TypeAdapter, ValidationError


def _is_redis_url(value: SecretStr) -> SecretStr:
    try:
        TypeAdapter(RedisDsn).validate_python(value.get_secret_value())
    except ValidationError:
        raise ValueError("expected redis://:password@host:6379/0, or rediss:// for TLS") from None
    return value


RedisUrl = Annotated[SecretStr, AfterValidator(_is_redis_url)]
