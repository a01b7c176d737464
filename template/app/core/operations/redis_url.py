"""The URL of a server that speaks the Redis protocol, as a settings type."""

from typing import Annotated

from pydantic import AfterValidator, RedisDsn, SecretStr, TypeAdapter, ValidationError

OPTIONS = {"ssl_ca_certs", "ssl_cert_reqs"}


def _is_redis_url(value: SecretStr) -> SecretStr:
    try:
        url = TypeAdapter(RedisDsn).validate_python(value.get_secret_value())
    except ValidationError:
        raise ValueError("expected redis://:password@host:6379/0, or rediss:// for TLS") from None
    if unknown := {name for name, _ in url.query_params()} - OPTIONS:
        raise ValueError(f"unknown options after ?: {', '.join(sorted(unknown))}")
    return value


RedisUrl = Annotated[SecretStr, AfterValidator(_is_redis_url)]
