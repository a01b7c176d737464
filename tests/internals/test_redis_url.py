"""URLs of Valkey: what cannot be used is refused at the start, by the name of the variable."""

import pytest

from app.core.settings import ConfigurationError, CoreSettings, load

ROWS = [
    ("http://hunter2@cache", "expected redis://"),
    ("redis://hunter2:x@cache:65536/0", "expected redis://"),
    ("redis://hunter2:x@cache:0/0", "expected redis://"),
    ("redis://:hunter2@cache/abc", "expected redis://"),
    ("redis://:hunter2@cache/0/1", "expected redis://"),
    ("redis://:hunter2@cache/-1", "expected redis://"),
    ("redis://:x@cache/0#hunter2", "expected redis://"),
    ("redis://:hunter2@cache/0?timeout=1", "unknown options after ?: timeout"),
    ("redis://:hunter2@cache/0?ssl_cert_reqs=none", "ssl_cert_reqs: TLS needs rediss://"),
    ("rediss://:hunter2@cache/0?ssl_cert_reqs=CERT_NONE", "one of none, optional, required"),
    ("rediss://:hunter2@cache/0?ssl_ca_certs=/nowhere", "ssl_ca_certs is not the path of a file"),
]


@pytest.mark.parametrize(("url", "expected"), ROWS)
def test_a_url_that_cannot_be_used_is_refused(
    url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_URL", url)

    with pytest.raises(ConfigurationError) as caught:
        load(CoreSettings)

    assert "  CACHE_URL: " in str(caught.value)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://:p%23ss@[::1]:1/15",
        f"rediss://cache/0?ssl_cert_reqs=none&ssl_ca_certs={__file__}",
    ],
)
def test_other_urls_are_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", url)

    assert load(CoreSettings).cache_url.get_secret_value() == url
