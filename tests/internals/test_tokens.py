"""Access tokens: each wrong one is refused, and no fault of the issuer admits one."""

import asyncio
import json
import logging
import stat
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product
from threading import Event
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import APIRouter, FastAPI, Request
from httpx2 import AsyncClient, Response
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.core import security
from app.core.security import authentication, tokens
from app.core.security import issuer as issuer_module
from app.core.security.authentication import MAX_BYTES
from app.core.security.issuer import REFRESH_S, RETRY_S, STALE_S, Issuer, fetch_keys
from app.settings import Settings, get_settings
from tests.core.serving import ROOT
from tests.internals.guarded import app_of, client_of
from tests.internals.local_http import Handler, served

AUDIENCE = "things"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RS256 = RSAAlgorithm(RSAAlgorithm.SHA256)

router = APIRouter(dependencies=[security.requires("things:read")])


@router.get("/things")
async def things(caller: security.Caller, request: Request) -> dict[str, Any]:
    principal = request.scope["principal"]
    assert principal is caller
    return {"subject": caller.subject, "client": caller.client_id, "scopes": sorted(caller.scopes)}


@router.post("/things", dependencies=[security.requires("things:write")])
async def make_thing() -> str:
    return "made"


def jwk(key: Any, id: str = "one", **members: Any) -> dict[str, Any]:
    """Return the JWK of a public key."""
    kind = {rsa.RSAPublicKey: RSAAlgorithm, ec.EllipticCurvePublicKey: ECAlgorithm}
    public = key.public_key()
    algorithm: Any = next((kind[each] for each in kind if isinstance(public, each)), OKPAlgorithm)
    return {**algorithm.to_jwk(public, as_dict=True), "kid": id, **members}


class FakeIssuer:
    """An issuer on this machine that answers as a test says, and counts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys = [jwk(KEY)]
        self.fetches = 0
        self.documents: dict[str, Any] = {
            "/.well-known/openid-configuration": {"issuer": url, "jwks_uri": f"{url}/keys"},
            "/keys": lambda: {"keys": self.keys},
        }

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        self.fetches += path == "/keys"
        found = self.documents.get(path, 404)
        found = found() if callable(found) else found
        if isinstance(found, int):
            return found, b"{}", {"Location": f"{self.url}/keys"}
        return 200, found if isinstance(found, bytes) else json.dumps(found).encode(), {}


@contextmanager
def fake_issuer() -> Iterator[FakeIssuer]:
    class Answering(Handler):
        def do_GET(self) -> None:
            self.answer(*fake.answer(self.path))

    with served(Answering) as url:
        fake = FakeIssuer(url)
        yield fake


class Clock:
    """The monotonic clock of the issuer's keys, which a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(issuer_module, "monotonic", clock)
    return clock


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    with fake_issuer() as issuer:
        yield issuer


def settings_for(issuer: FakeIssuer, **changes: Any) -> Settings:
    given = {"auth_issuer": issuer.url, "auth_audience": AUDIENCE, "auth_algorithm": "RS256"}
    return get_settings().model_copy(update=given | changes)


@pytest.fixture(scope="module")
def app_of_things() -> FastAPI:
    return app_of(router)


@pytest.fixture
async def client(app_of_things: FastAPI, issuer: FakeIssuer) -> AsyncIterator[AsyncClient]:
    async with client_of(app_of_things, settings_for(issuer)) as client:
        yield client


# Tokens


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    header: Any,
    claims: Any,
    sign: Callable[[bytes], bytes] = lambda message: RS256.sign(message, KEY),
) -> str:
    message = f"{part(header)}.{part(claims)}"
    return f"{message}.{part(sign(message.encode()))}"


HEADER: dict[str, Any] = {"alg": "RS256", "typ": "at+jwt", "kid": "one"}


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def claims_of(issuer: FakeIssuer, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": issuer.url,
        "aud": AUDIENCE,
        "sub": "ann",
        "client_id": "shop",
        "scope": "things:read things:write",
        "iat": now,
        "exp": now + 600,
        **changes,
    }


def token(issuer: FakeIssuer, key: Any = KEY, id: str = "one", **changes: Any) -> str:
    claims = claims_of(issuer, **changes)
    return signed(HEADER | {"kid": id}, claims, lambda message: RS256.sign(message, key))


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    algorithm = HMACAlgorithm(HMACAlgorithm.SHA256)
    return lambda message: algorithm.sign(message, secret)


def pem() -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


NOW = time.time()
OTHERS_KEY = {
    "jwk": jwk(OTHER, "two"),
    "jku": "http://127.0.0.1:9/keys",
    "x5u": "http://127.0.0.1:9/certificate",
    "x5c": ["AAAA"],
}


WRONG_TYPES: dict[tuple[str, ...], tuple[object, ...]] = {
    ("iss", "aud", "sub"): (None, True, {}, 7),
    ("exp", "iat", "nbf"): (None, True, {}, "9999999999"),
    ("scope", "client_id"): (True, {}, 7, ["things:read"]),
}


def other_key(name: str) -> Callable[[dict[str, Any]], str]:
    header = HEADER | {"kid": "two", name: OTHERS_KEY[name]}
    return lambda claims: signed(header, claims, lambda message: RS256.sign(message, OTHER))


def lacking(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda claims: signed(HEADER, without(claims, name))


def changed(name: str, value: object) -> Callable[[dict[str, Any]], str]:
    return lambda claims: signed(HEADER, claims | {name: value})


# A wrong token is made of right claims.
WRONG: dict[str, Callable[[dict[str, Any]], str]] = {
    # The algorithm
    "alg none": lambda c: signed(HEADER | {"alg": "none"}, c),
    "alg none, no signature": lambda c: f"{part(HEADER | {'alg': 'none'})}.{part(c)}.",
    "alg None": lambda c: signed(HEADER | {"alg": None}, c),
    "alg absent": lambda c: signed(without(HEADER, "alg"), c),
    "alg in lower case": lambda c: signed(HEADER | {"alg": "rs256"}, c),
    "alg is a list": lambda c: signed(HEADER | {"alg": ["RS256"]}, c),
    "HS256 with the public key": lambda c: signed(HEADER | {"alg": "HS256"}, c, hs256(pem())),
    "HS256 with the JWK": lambda c: signed(
        HEADER | {"alg": "HS256"}, c, hs256(json.dumps(jwk(KEY)).encode())
    ),
    "HS256 with no key": lambda c: signed(HEADER | {"alg": "HS256"}, c, hs256(b"\0")),
    "another algorithm of the same key": lambda c: signed(
        HEADER | {"alg": "RS512"},
        c,
        lambda message: RSAAlgorithm(RSAAlgorithm.SHA512).sign(message, KEY),
    ),
    "RS256, signed by RS512": lambda c: signed(
        HEADER, c, lambda message: RSAAlgorithm(RSAAlgorithm.SHA512).sign(message, KEY)
    ),
    # The signature
    "another key": lambda c: signed(HEADER, c, lambda message: RS256.sign(message, OTHER)),
    "no signature": lambda c: signed(HEADER, c).rpartition(".")[0],
    "an empty signature": lambda c: signed(HEADER, c).rpartition(".")[0] + ".",
    "a short signature": lambda c: signed(HEADER, c, lambda _: b"\0"),
    "a signature of zeros": lambda c: signed(HEADER, c, lambda _: bytes(256)),
    "the signature of other claims": lambda c: (
        f"{part(HEADER)}.{part(c | {'sub': 'root'})}.{signed(HEADER, c).rpartition('.')[2]}"
    ),
    # The type
    "typ JWT": lambda c: signed(HEADER | {"typ": "JWT"}, c),
    "typ absent": lambda c: signed(without(HEADER, "typ"), c),
    "typ of an ID token": lambda c: signed(HEADER | {"typ": "id_token+jwt"}, c),
    "typ of a logout token": lambda c: signed(HEADER | {"typ": "logout+jwt"}, c),
    "typ is a number": lambda c: signed(HEADER | {"typ": 1}, c),
    # The key
    "kid absent": lambda c: signed(without(HEADER, "kid"), c),
    "kid unknown": lambda c: signed(HEADER | {"kid": "two"}, c),
    "kid empty": lambda c: signed(HEADER | {"kid": ""}, c),
    "kid is a path": lambda c: signed(HEADER | {"kid": "../../../../dev/null"}, c, hs256(b"\0")),
    "kid is a URL": lambda c: signed(HEADER | {"kid": "http://127.0.0.1/keys"}, c),
    "kid is SQL": lambda c: signed(HEADER | {"kid": "' UNION SELECT 'secret"}, c),
    "kid is a number": lambda c: signed(HEADER | {"kid": 1}, c),
    "kid is a list": lambda c: signed(HEADER | {"kid": ["one"]}, c),
    **{f"a key of its own in {name}": other_key(name) for name in OTHERS_KEY},
    "crit": lambda c: signed(HEADER | {"crit": ["exp"]}, c),
    "crit of nothing": lambda c: signed(HEADER | {"crit": []}, c),
    "crit and b64": lambda c: signed(HEADER | {"crit": ["b64"], "b64": False}, c),
    "b64": lambda c: signed(HEADER | {"b64": True}, c),
    # Times
    "expired": lambda c: signed(HEADER, c | {"exp": NOW - 60}),
    "expired at the beginning of time": lambda c: signed(HEADER, c | {"exp": 0}),
    "from the future": lambda c: signed(HEADER, c | {"iat": NOW + 600}),
    "not valid yet": lambda c: signed(HEADER, c | {"nbf": NOW + 600}),
    # Issuer and audience
    "another issuer": lambda c: signed(HEADER, c | {"iss": "https://issuer.example.org"}),
    "iss with a slash": lambda c: signed(HEADER, c | {"iss": c["iss"] + "/"}),
    "iss in upper case": lambda c: signed(HEADER, c | {"iss": c["iss"].upper()}),
    "iss is a list": lambda c: signed(HEADER, c | {"iss": [c["iss"]]}),
    "another audience": lambda c: signed(HEADER, c | {"aud": "other"}),
    "other audiences": lambda c: signed(HEADER, c | {"aud": ["other", "others"]}),
    "a part of the audience": lambda c: signed(HEADER, c | {"aud": AUDIENCE + "-more"}),
    "no audiences": lambda c: signed(HEADER, c | {"aud": []}),
    "aud is an object": lambda c: signed(HEADER, c | {"aud": {AUDIENCE: True}}),
    # Claims that are absent, or of another type
    **{f"{name} absent": lacking(name) for name in ("iss", "aud", "sub", "exp", "iat")},
    **{
        f"{name} is {value!r}": changed(name, value)
        for names, values in WRONG_TYPES.items()
        for name, value in product(names, values)
    },
    "scope is null, scp is a number": lambda c: signed(HEADER, c | {"scope": None, "scp": 7}),
    "exp is infinite": lambda c: signed(
        HEADER, json.dumps(c | {"exp": 1}).replace('"exp": 1', '"exp": 1e999').encode()
    ),
    "exp is NaN": lambda c: signed(HEADER, c | {"exp": float("nan")}),
    "sub is empty": lambda c: signed(HEADER, c | {"sub": ""}),
    "sub is long": lambda c: signed(HEADER, c | {"sub": "a" * 256}),
    "sub has NUL": lambda c: signed(HEADER, c | {"sub": "ann\0"}),
    "sub has a new line": lambda c: signed(HEADER, c | {"sub": "ann\n"}),
    "sub is half a character": lambda c: signed(HEADER, c | {"sub": "\ud800"}),
    "scp has a number": lambda c: signed(HEADER, c | {"scope": None, "scp": [1]}),
    # The form
    "not three parts": lambda c: signed(HEADER, c) + ".AAAA",
    "one part": lambda _: "AAAA",
    "empty": lambda _: "",
    "dots": lambda _: "..",
    "encrypted": lambda c: f"{part({'alg': 'RSA-OAEP', 'enc': 'A256GCM'})}.A.A.A.A",
    "padding": lambda c: signed(HEADER, c) + "==",
    "standard base64": lambda c: signed(HEADER, c) + "+/",
    "a blank inside": lambda c: signed(HEADER, c).replace(".", " .", 1),
    "a length that base64 cannot have": lambda c: f"AAAAA.{part(c)}.AAAA",
    "not ASCII": lambda c: signed(HEADER, c) + "é",
    "the header is no JSON": lambda c: signed(b"{", c),
    "the header is a list": lambda c: signed([HEADER], c),
    "the header is text": lambda c: signed(b'"RS256"', c),
    "the header is UTF-16": lambda c: signed(json.dumps(HEADER).encode("utf-16"), c),
    "the claims are no JSON": lambda _: signed(HEADER, b"{"),
    "the claims are a list": lambda c: signed(HEADER, [c]),
    "the claims are a token": lambda c: signed(HEADER, signed(HEADER, c).encode()),
    "the claims are not UTF-8": lambda _: signed(HEADER, b'{"sub": "\xff"}'),
    "a name twice in the header": lambda c: signed(
        b'{"alg": "none", "alg": "RS256", "typ": "at+jwt", "kid": "one"}', c
    ),
    "a name twice in the claims": lambda c: signed(
        HEADER, json.dumps(c).replace("{", '{"sub": "root", ', 1).encode()
    ),
    "deep": lambda c: signed(HEADER, json.dumps(c)[:-1].encode() + b', "a": ' + b"[" * 4000),
    "a large number": lambda c: signed(
        HEADER, json.dumps(c)[:-1].encode() + b', "a": ' + b"9" * 4500 + b"}"
    ),
    "huge": lambda c: signed(HEADER, c | {"more": "a" * MAX_BYTES}),
}


def is_refused(response: Response, credential: str = "", error: str = "invalid_token") -> None:
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == f'Bearer error="{error}"' if error else "Bearer"
    assert response.headers["cache-control"] == "private, no-store"
    assert credential not in response.text or not credential


async def get(client: AsyncClient, credential: str) -> Response:
    # Bytes, because HTTP allows more than ASCII.
    return await client.get(
        "/things", headers=[(b"Authorization", b"Bearer " + credential.encode())]
    )


async def test_a_valid_token_is_accepted(client: AsyncClient, issuer: FakeIssuer) -> None:
    response = await get(client, token(issuer))

    assert response.status_code == 200
    assert response.json() == {
        "subject": "ann",
        "client": "shop",
        "scopes": ["things:read", "things:write"],
    }
    assert (await client.post("/things", headers=bearer(token(issuer)))).status_code == 200


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_token_is_refused(
    client: AsyncClient, issuer: FakeIssuer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = WRONG[name](claims_of(issuer))

    is_refused(await get(client, wrong), wrong)

    for piece in (wrong, *wrong.split(".")):
        assert len(piece) < 20 or piece not in caplog.text


async def test_times_may_differ_a_little(client: AsyncClient, issuer: FakeIssuer) -> None:
    now, leeway_s = time.time(), get_settings().auth_leeway_s
    late = token(issuer, exp=now - leeway_s / 2)
    early = token(issuer, iat=now + leeway_s / 2, nbf=now + leeway_s / 2)

    assert [(await get(client, each)).status_code for each in (late, early)] == [200, 200]


async def test_other_forms_of_right_claims(client: AsyncClient, issuer: FakeIssuer) -> None:
    several = token(issuer, aud=["other", AUDIENCE], exp=time.time() + 60.5)
    claims = without(without(claims_of(issuer), "scope"), "client_id")
    okta = signed(
        HEADER | {"typ": "application/at+JWT"}, claims | {"scp": ["things:read"], "azp": "x"}
    )
    entra = signed(HEADER, claims | {"scp": "things:read other"})

    assert (await get(client, several)).status_code == 200
    assert (await get(client, okta)).json() == {
        "subject": "ann",
        "client": "x",
        "scopes": ["things:read"],
    }
    assert (await get(client, entra)).json()["scopes"] == ["other", "things:read"]


async def test_any_type_is_accepted_on_demand(app_of_things: FastAPI, issuer: FakeIssuer) -> None:
    claims = claims_of(issuer)
    async with client_of(app_of_things, settings_for(issuer, auth_any_token_type=True)) as client:
        for header in (HEADER, without(HEADER, "typ"), HEADER | {"typ": "JWT"}):
            assert (await get(client, signed(header, claims))).status_code == 200
        is_refused(await get(client, signed(HEADER | {"typ": "logout+jwt"}, claims)))


async def test_a_scope_is_required(client: AsyncClient, issuer: FakeIssuer) -> None:
    response = await client.post("/things", headers=bearer(token(issuer, scope="things:read")))

    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == (
        'Bearer error="insufficient_scope", scope="things:write"'
    )
    for scope in ("", "things", "things:read:more", "THINGS:READ", "things:*"):
        assert (await get(client, token(issuer, scope=scope))).status_code == 403


async def test_the_header_is_strict(client: AsyncClient, issuer: FakeIssuer) -> None:
    right = f"Bearer {token(issuer)}"

    is_refused(await client.get("/things"), error="")
    is_refused(await client.get("/things", headers={"Authorization": "Basic YTpi"}), error="")
    is_refused(await client.get("/things", headers={"Authorization": "Bearer"}))
    twice = [("Authorization", right), ("Authorization", right)]
    is_refused(await client.get("/things", headers=twice))
    is_refused(await client.get("/things", headers={"Authorization": f"{right}, {right}"}))
    is_refused(await client.get("/things", params={"access_token": right}), error="")
    is_refused(await client.get("/things", headers={"Cookie": f"access_token={right}"}), error="")
    scheme = {"Authorization": right.replace("Bearer", "bEARER")}
    assert (await client.get("/things", headers=scheme)).status_code == 200


@pytest.mark.parametrize(
    ("algorithm", "key", "sign"),
    [
        ("ES256", ec.generate_private_key(ec.SECP256R1()), ECAlgorithm(ECAlgorithm.SHA256)),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm()),
    ],
)
async def test_other_algorithms(
    app_of_things: FastAPI, algorithm: str, key: Any, sign: Any, issuer: FakeIssuer
) -> None:
    # Keys of other types and uses are there as well, one under the same name.
    issuer.keys = [
        jwk(KEY),
        jwk(key),
        jwk(key, "enc", use="enc"),
        jwk(ec.generate_private_key(ec.SECP384R1()), "curve"),
        {"kty": "oct", "k": "AAAA", "kid": "secret"},
        {},
    ]
    settings = settings_for(issuer, auth_algorithm=algorithm)
    assert list(await asyncio.to_thread(fetch_keys, settings)) == ["one"]
    async with client_of(app_of_things, settings) as client:
        claims = claims_of(issuer)
        right = signed(HEADER | {"alg": algorithm}, claims, lambda each: sign.sign(each, key))
        assert (await get(client, right)).status_code == 200
        is_refused(await get(client, signed(HEADER, claims)))


async def test_a_token_is_verified_once(
    client: AsyncClient, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has several dependencies, and comes again; after its time it is refused."""
    checks = []
    verify = tokens.verify

    async def counted(*arguments: Any, **options: Any) -> Any:
        checks.append(arguments)
        return await verify(*arguments, **options)

    monkeypatch.setattr(authentication, "verify", counted)
    right = token(issuer)

    assert [(await get(client, right)).status_code for _ in range(3)] == [200, 200, 200]
    assert len(checks) == 1
    monkeypatch.setattr(authentication, "time", lambda: time.time() + 700)
    is_refused(await get(client, right))
    assert len(checks) == 2


async def test_what_is_remembered_is_bounded(
    client: AsyncClient, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MAX_KNOWN", 3)
    for number in range(5):
        assert (await get(client, token(issuer, sub=f"user-{number}"))).status_code == 200
        is_refused(await get(client, f"{number}.A.A"))

    known = authentication._open[-1]._known
    assert [principal.subject for principal, _ in known.values()] == ["user-2", "user-3", "user-4"]
    assert all(len(digest) == 32 for digest in known)


# Keys of the issuer


async def test_rotated_keys(app_of_things: FastAPI, clock: Clock, issuer: FakeIssuer) -> None:
    async with client_of(app_of_things, settings_for(issuer)) as client:
        old, new = token(issuer), token(issuer, OTHER, "two")
        assert (await get(client, old)).status_code == 200
        issuer.keys = [jwk(KEY), jwk(OTHER, "two")]
        is_refused(await get(client, new))
        clock.now += RETRY_S
        assert (await get(client, new)).status_code == 200
        assert (await get(client, old)).status_code == 200

        # The old key is withdrawn, and what it has signed is forgotten.
        issuer.keys = [jwk(OTHER, "two")]
        clock.now += REFRESH_S + 1
        authentication._open[-1]._issuer.keys()
        await authentication._open[-1]._issuer.refresh()
        is_refused(await get(client, old))
        assert (await get(client, new)).status_code == 200


async def test_unknown_keys_are_asked_for_seldom(
    app_of_things: FastAPI, clock: Clock, issuer: FakeIssuer
) -> None:
    async with client_of(app_of_things, settings_for(issuer)) as client:
        assert issuer.fetches == 1
        for round in (1, 2, 3):
            clock.now += RETRY_S
            unknown = [token(issuer, OTHER, f"{round}-{number}") for number in range(20)]
            for response in await asyncio.gather(*(get(client, each) for each in unknown)):
                is_refused(response)
            assert issuer.fetches == 1 + round
            # The known key needs none.
            assert (await get(client, token(issuer))).status_code == 200
        assert issuer.fetches == 4


async def test_one_fetch_at_a_time(clock: Clock) -> None:
    """All wait for the same one, also if it takes longer than the time between two."""
    begun, go_on = Event(), Event()
    fetches = []

    def fetch() -> dict[str, Any]:
        fetches.append(1)
        begun.set()
        assert go_on.wait(30)
        return {"one": "key"}

    keys = Issuer(fetch)
    waiting = [asyncio.create_task(keys.key("one")) for _ in range(50)]
    await asyncio.to_thread(begun.wait, 30)
    clock.now += 5 * RETRY_S
    waiting += [asyncio.create_task(keys.key("one")) for _ in range(50)]
    await asyncio.sleep(0)
    go_on.set()

    found: list[object] = await asyncio.gather(*waiting)
    assert found == ["key"] * 100
    assert fetches == [1]
    await keys.close()


async def test_a_slow_issuer_does_not_hold_requests(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_module, "WAIT_S", 0.01)
    go_on = Event()
    keys = Issuer(lambda: {"one": go_on.wait(30)})  # type: ignore[dict-item]
    try:
        with pytest.raises(Exception, match="unavailable"):
            await keys.key("one")
    finally:
        go_on.set()
        await keys.close()


async def test_an_absent_issuer(
    app_of_things: FastAPI, clock: Clock, caplog: pytest.LogCaptureFixture, issuer: FakeIssuer
) -> None:
    """The service starts, and answers 503 to tokens until the issuer is there."""
    issuer.documents["/keys"] = 500
    async with client_of(app_of_things, settings_for(issuer)) as client:
        response = await get(client, token(issuer))
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert (await client.get("/livez")).status_code == 200
        assert "AUTH_ISSUER: no keys: /keys is 500" in caplog.text
        # No time passes, so nobody asks again.
        assert issuer.fetches == 1
        is_refused(await client.get("/things"), error="")

        issuer.documents["/keys"] = {"keys": [jwk(KEY)]}
        clock.now += RETRY_S
        assert (await get(client, token(issuer))).status_code == 200


async def test_known_keys_outlive_the_issuer_for_a_day(
    app_of_things: FastAPI, clock: Clock, issuer: FakeIssuer
) -> None:
    async with client_of(app_of_things, settings_for(issuer)) as client:
        keys = authentication._open[-1]._issuer
        assert (await get(client, token(issuer))).status_code == 200
        issuer.documents["/keys"] = 503
        clock.now += STALE_S - 1
        assert (await get(client, token(issuer))).status_code == 200
        await keys.refresh()
        # An unknown key may be a new one.
        assert (await get(client, token(issuer, OTHER, "two"))).status_code == 503
        clock.now += 2
        remembered = token(issuer)
        assert (await get(client, remembered)).status_code == 503
        await keys.refresh()


def moved(fake: FakeIssuer, **changes: Any) -> dict[str, Any]:
    return {"issuer": fake.url, "jwks_uri": f"{fake.url}/keys"} | changes


DISCOVERY = "/.well-known/openid-configuration"
FAULTS: dict[str, tuple[str, Callable[[FakeIssuer], Any]]] = {
    "no metadata": (DISCOVERY, lambda _: 404),
    "a redirect of the metadata": (DISCOVERY, lambda _: 302),
    "a redirect of the keys": ("/keys", lambda _: 307),
    "another issuer": (DISCOVERY, lambda each: moved(each, issuer="https://example.org")),
    "the issuer with a slash": (DISCOVERY, lambda each: moved(each, issuer=each.url + "/")),
    "keys of a file": (DISCOVERY, lambda each: moved(each, jwks_uri="file:///etc/passwd")),
    "keys over http": (DISCOVERY, lambda each: moved(each, jwks_uri="http://192.0.2.1/keys")),
    "no URL of keys": (DISCOVERY, lambda each: {"issuer": each.url}),
    "the URL of keys is a number": (DISCOVERY, lambda each: moved(each, jwks_uri=1)),
    "metadata is a list": (DISCOVERY, lambda _: []),
    "keys are no JSON": ("/keys", lambda _: b"<html>"),
    "keys are text": ("/keys", lambda _: {"keys": "text"}),
    "no keys": ("/keys", lambda _: {"keys": []}),
    "a key without a name": ("/keys", lambda _: {"keys": [without(jwk(KEY), "kid")]}),
    "a key for encryption": ("/keys", lambda _: {"keys": [jwk(KEY, use="enc")]}),
    "a key for another algorithm": ("/keys", lambda _: {"keys": [jwk(KEY, alg="RS512")]}),
    "a secret": ("/keys", lambda _: {"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]}),
    "a short key": (
        "/keys",
        lambda _: {"keys": [jwk(rsa.generate_private_key(65537, 1024))]},  # noqa: S505
    ),
    "too large": ("/keys", lambda _: {"keys": [jwk(KEY)], "more": "a" * 2**18}),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_wrong_issuer_has_no_keys(
    app_of_things: FastAPI, name: str, caplog: pytest.LogCaptureFixture, issuer: FakeIssuer
) -> None:
    path, fault = FAULTS[name]
    issuer.documents[path] = fault(issuer)
    async with client_of(app_of_things, settings_for(issuer)) as client:
        assert (await get(client, token(issuer))).status_code == 503
    assert "AUTH_ISSUER: no keys: " in caplog.text


async def test_the_discovery_of_rfc_8414(app_of_things: FastAPI, issuer: FakeIssuer) -> None:
    """The path of the issuer is behind that of the metadata."""
    host, issuer.url = issuer.url, f"{issuer.url}/realm"
    metadata = {"issuer": issuer.url, "jwks_uri": f"{host}/keys"}
    issuer.documents = {
        "/.well-known/oauth-authorization-server/realm": metadata,
        "/keys": {"keys": [jwk(KEY)]},
    }
    async with client_of(app_of_things, settings_for(issuer)) as client:
        assert (await get(client, token(issuer))).status_code == 200


# Routes


def test_the_documentation_names_scopes_and_errors(app_of_things: FastAPI) -> None:
    document = app_of_things.openapi()

    operation = document["paths"]["/things"]["post"]
    assert operation["security"] == [{"Bearer": ["things:read", "things:write"]}]
    assert {"401", "403"} <= operation["responses"].keys()
    scheme = document["components"]["securitySchemes"]["Bearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_a_principal_and_its_errors_show_no_token() -> None:
    assert repr(security.Principal("ann", frozenset({"a"}))) == (
        "Principal(subject='ann', scopes=frozenset({'a'}), client_id=None)"
    )


def test_the_fetch_is_what_the_settings_say(issuer: FakeIssuer) -> None:
    assert list(partial(fetch_keys, settings_for(issuer))()) == ["one"]
    with pytest.raises(ValueError, match="AUTH_ALGORITHM ES256"):
        fetch_keys(settings_for(issuer, auth_algorithm="ES256"))


async def test_a_token_for_development(app_of_things: FastAPI) -> None:
    """`python -m dev token` signs for the issuer of these tests, with the key of this checkout."""
    command = [sys.executable, "-m", "dev", "token", "--subject", "ann", "--scope", "things:read"]
    made = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    key = await asyncio.to_thread((ROOT / ".dev" / "key.pem").stat)
    assert stat.S_IMODE(key.st_mode) == 0o600
    async with client_of(app_of_things, get_settings()) as client:
        response = await get(client, made.stdout.strip())
    assert response.json() == {
        "subject": "ann",
        "client": "development",
        "scopes": ["things:read"],
    }


def test_jwt_is_the_library_that_signs() -> None:
    """The tokens of this file are those that the library makes."""
    made = jwt.encode({"sub": "ann"}, KEY, algorithm="RS256", headers=HEADER)
    assert jwt.decode(made, KEY.public_key(), algorithms=["RS256"]) == {"sub": "ann"}
