"""The URL of a server that speaks the Redis protocol, as a settings type."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, RedisDsn, SecretStr, TypeAdapter, ValidationError

from app.core.settings.urls import ESCAPES, is_well_escaped

FORM = (
    "expected redis://:password@host:6379/0 with the number of a database, or rediss:// for TLS; "
    + ESCAPES
)
CERTIFICATES = ("none", "optional", "required")


def _is_redis_url(value: SecretStr) -> SecretStr:
    """Refuse each URL that redis-py would refuse at its first use, or read otherwise."""
    text = value.get_secret_value()
    try:
        url = TypeAdapter(RedisDsn).validate_python(text)
    except ValidationError:
        raise ValueError(FORM) from None
    is_database = (url.path or "/0")[1:].isdecimal()
    if not is_database or url.port == 0 or url.fragment is not None or not is_well_escaped(text):
        raise ValueError(FORM)
    options = dict(url.query_params())
    if unknown := options.keys() - {"ssl_ca_certs", "ssl_cert_reqs"}:
        raise ValueError(f"unknown options after ?: {', '.join(sorted(unknown))}")
    if options and url.scheme != "rediss":
        raise ValueError(f"{', '.join(options)}: TLS needs rediss://")
    if options.get("ssl_cert_reqs", "none") not in CERTIFICATES:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(CERTIFICATES)}")
    if "ssl_ca_certs" in options and not Path(options["ssl_ca_certs"]).is_file():
        raise ValueError("ssl_ca_certs is not the path of a file")
    return value


RedisUrl = Annotated[SecretStr, AfterValidator(_is_redis_url)]
