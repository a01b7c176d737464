"""Only trusted proxies tell the address of the client and the scheme."""

from typing import Any

import pytest

from app.core.http.forwarded import Forwarded
from app.core.settings import ConfigurationError, load
from app.settings import Settings

PROXIES = ["10.0.0.0/8", "2001:db8:1::/48", "unix"]
PROXY = ("10.0.0.1", 4000)
CLIENT = ("203.0.113.7", 0)


async def resolved(
    *headers: tuple[str, str],
    peer: tuple[str, int] | None = PROXY,
    proxies: list[str] = PROXIES,
    kind: str = "http",
) -> tuple[Any, str]:
    """Return the client and the scheme that the application sees."""
    seen: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "client": peer, "scheme": "http", "headers": raw}
    await Forwarded(application, proxies=proxies)(scope, None, None)  # type: ignore[arg-type]
    return seen["client"], seen["scheme"]


def for_(*values: str) -> list[tuple[str, str]]:
    return [("x-forwarded-for", value) for value in values]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["203.0.113.7"], CLIENT),
        (["203.0.113.7:5000"], CLIENT),
        (["2001:db8::7"], ("2001:db8::7", 0)),
        (["[2001:DB8::7]:443"], ("2001:db8::7", 0)),
        (["[2001:db8::7]"], ("2001:db8::7", 0)),
        (["::ffff:203.0.113.7"], CLIENT),
        # The first is the client's own, the last that of the proxy.
        (["1.2.3.4, 203.0.113.7"], CLIENT),
        (["1.2.3.4", "203.0.113.7"], CLIENT),
        (["1.2.3.4", "203.0.113.7, 10.9.9.9, ::ffff:10.1.1.1"], CLIENT),
        (["10.9.9.9, 203.0.113.7"], CLIENT),
        ([", ".join(["1.2.3.4"] * 1000) + ", 203.0.113.7"], CLIENT),
        # More proxies than a service has: the list ends.
        (["203.0.113.7" + ", 10.3.3.3" * 20], ("10.3.3.3", 0)),
        # All are proxies: the outermost has made the request.
        (["10.2.2.2, 10.1.1.1"], ("10.2.2.2", 0)),
        # Junk ends the list: what is before it may be anybody's.
        (["1.2.3.4, unknown"], PROXY),
        (["1.2.3.4, unknown, 10.1.1.1"], ("10.1.1.1", 0)),
        (["1.2.3.4, "], PROXY),
        ([""], PROXY),
        ([","], PROXY),
        (["203.0.113.7:http"], PROXY),
        (["203.0.113.256"], PROXY),
        (["203.0.113.7\xff"], PROXY),
        (["[203.0.113.7"], PROXY),
        (["[2001:db8::7]evil"], PROXY),
        (["fe80::1%<script>"], PROXY),
        (["_hidden"], PROXY),
        (["1" * 30_000], PROXY),
        (["0x7f000001"], PROXY),
        ([], PROXY),
    ],
)
async def test_the_client_is_the_last_address_that_is_no_proxy(
    values: list[str], client: tuple[str, int]
) -> None:
    assert (await resolved(*for_(*values)))[0] == client


@pytest.mark.parametrize(
    ("peer", "proxies", "is_trusted"),
    [
        (PROXY, PROXIES, True),
        (("::ffff:10.0.0.1", 1), PROXIES, True),
        (("2001:db8:1::9", 1), PROXIES, True),
        (None, PROXIES, True),
        (None, ["10.0.0.0/8"], False),
        (("192.0.2.1", 1), PROXIES, False),
        (("unix", 1), PROXIES, False),
        (("127.0.0.1", 1), [], False),
        (PROXY, [], False),
    ],
)
async def test_other_peers_are_not_believed(
    peer: tuple[str, int] | None, proxies: list[str], is_trusted: bool
) -> None:
    headers = [*for_("203.0.113.7"), ("x-forwarded-proto", "https")]
    seen = await resolved(*headers, peer=peer, proxies=proxies)
    assert seen == ((CLIENT, "https") if is_trusted else (peer, "http"))


@pytest.mark.parametrize(
    ("values", "kind", "scheme"),
    [
        (["https"], "http", "https"),
        ([" HTTPS "], "http", "https"),
        (["http, https"], "http", "https"),
        (["http", "https"], "http", "https"),
        (["https"], "websocket", "wss"),
        (["http"], "websocket", "ws"),
        (["ws"], "http", "http"),
        (["javascript"], "http", "http"),
        (["https,"], "http", "http"),
        (["", "\xff"], "http", "http"),
    ],
)
async def test_the_scheme_is_http_or_https(values: list[str], kind: str, scheme: str) -> None:
    headers = [("x-forwarded-proto", value) for value in values]
    assert (await resolved(*headers, kind=kind))[1] == scheme


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "0.0.0.0/0",
        "0.0.0.0/1,128.0.0.0/1",
        "10.0.0.0/7",
        "fc00::/6",
        "::/0",
        "10.0.0.1/8",
        "proxy.internal",
        "10.0.0.0/8,*",
        "10.0.0.0/33",
    ],
)
def test_a_value_that_trusts_too_many_stops_the_start(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", value)
    with pytest.raises(ConfigurationError, match="  TRUSTED_PROXIES: item "):
        load(Settings)


def test_networks_addresses_and_unix_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1,2001:db8::/32,fc00::/7,unix")
    expected = ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "fc00::/7", "unix")
    assert Settings().trusted_proxies == expected
