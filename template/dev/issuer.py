"""An issuer of access tokens for development and tests, so that nothing needs the internet.

`.dev/` has its key, which is made at first use, and the address of the issuer that
`python -m dev` started last. Only a service with this AUTH_ISSUER, on this machine, accepts the
tokens.
"""

import argparse
import json
import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

AUDIENCE = "development"
HOME = Path(__file__).parents[1] / ".dev"

_DISCOVERY = "/.well-known/openid-configuration"
_LIFETIME_S = 8 * 3600


def token(subject: str, scopes: Collection[str], **claims: Any) -> str:
    """Return an access token for the service that runs with AUTH_ISSUER and AUTH_AUDIENCE.

    `claims` add to the usual ones, or replace them.
    """
    now = int(time.time())
    known = {
        "iss": os.environ["AUTH_ISSUER"],
        "aud": os.environ["AUTH_AUDIENCE"],
        "sub": subject,
        "scope": " ".join(scopes),
        "client_id": "development",
        "iat": now,
        "exp": now + _LIFETIME_S,
        "jti": secrets.token_hex(8),
    }
    headers = {"typ": "at+jwt", "kid": public_key()["kid"]}
    return jwt.encode(known | claims, key(), algorithm="RS256", headers=headers)


@contextmanager
def issuer() -> Iterator[str]:
    """Serve the metadata and the public key on a free port; yields the URL for AUTH_ISSUER."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            documents = {
                _DISCOVERY: {"issuer": url, "jwks_uri": f"{url}/jwks.json"},
                "/jwks.json": {"keys": [public_key()]},
            }
            found = documents.get(self.path)
            body = json.dumps(found).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield url
        finally:
            server.shutdown()


@cache
def key() -> RSAPrivateKey:
    """Return the key of this checkout; the first process makes it."""
    path = HOME / "key.pem"
    if not path.exists():
        pem = generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _home()
        made = path.with_name(secrets.token_hex(8))
        made.touch(mode=0o600)
        made.write_bytes(pem)
        try:
            # Fails if another process was faster.
            os.link(made, path)
        except FileExistsError:
            pass
        finally:
            made.unlink()
    found = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(found, RSAPrivateKey)
    return found


@cache
def public_key() -> dict[str, Any]:
    """Return the JWK of the public key."""
    found: dict[str, Any] = RSAAlgorithm.to_jwk(key().public_key(), as_dict=True)
    return found | {"kid": sha256(found["n"].encode()).hexdigest()[:16], "use": "sig"}


def remember(url: str) -> None:
    """Let `python -m dev token` make tokens of this issuer, and no longer of an earlier one."""
    _home()
    (HOME / "issuer").write_text(url)


def _home() -> None:
    HOME.mkdir(mode=0o700, exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")


def main(arguments: Sequence[str]) -> int:
    """Print a token for the service that `python -m dev` runs."""
    parser = argparse.ArgumentParser(prog="python -m dev token", description=main.__doc__)
    parser.add_argument("--subject", default="developer", help="who calls")
    parser.add_argument("--scope", action="append", default=[], help="may be repeated")
    chosen = parser.parse_args(arguments)
    if not os.environ.get("AUTH_ISSUER"):
        try:
            os.environ["AUTH_ISSUER"] = (HOME / "issuer").read_text()
        except FileNotFoundError:
            parser.error("start `python -m dev` first, or set AUTH_ISSUER")
    os.environ.setdefault("AUTH_AUDIENCE", AUDIENCE)
    print(token(chosen.subject, chosen.scope))
    return 0
