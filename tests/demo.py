"""The demo: starts a rendered service on its embedded servers and talks to it as a client would."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 20


class Answer(NamedTuple):
    """A response of the service; `headers` has lower-case names."""

    status: int
    headers: dict[str, str]
    body: Any


def run(service: Path, uv: str, environment: Mapping[str, str | None], *, once: bool) -> None:
    """Start the service, send it requests, print the responses, and stop at once or at Ctrl-C.

    Raises:
        SystemExit: when it does not start, does not answer as it should, or does not stop.
    """
    port = _free_port()
    variables = {key: value for key, value in (os.environ | environment | {"PORT": str(port)}).items() if value}
    command = [uv, "run", "python", "-m", "dev"]
    log = service / "demo.log"
    print(f"\nStarting {service}\n  $ {' '.join(['uv', *command[1:]])}\n")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=service, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(process, port, log)
        talk(f"http://127.0.0.1:{port}")
        if not once:
            print(f"\nThe service runs on http://127.0.0.1:{port}/docs and reloads when you edit {service}")
            print("Press Ctrl-C to stop it. How to go on: README.md there.")
            process.wait()
    except KeyboardInterrupt:
        print()
    finally:
        # To the whole group, as a terminal does: uv does not pass SIGINT on.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"The service did not stop within {STOP_TIMEOUT_S} s; its log: {log}") from None
    print("Stopped.")


def talk(base: str) -> None:
    """Send the requests of the demo.

    Raises:
        SystemExit: when an answer is not as it should be.
    """
    print("Register two users; a message welcomes them in the background:")
    users = [
        ask(base, "POST", "/users", 201, {"email": f"{name.lower()}@example.org", "name": name}).body
        for name in ("Alan", "Edith")
    ]

    print("\nRead one twice: the second time the bytes come from the cache:")
    path = f"/users/{users[0]['id']}"
    for expected in ("app; fwd=miss", "app; hit"):
        answer = ask(base, "GET", path, 200)
        require(answer.headers.get("cache-status", "").startswith(expected), f"expected Cache-Status: {expected}")
    print("\nChange the user: the cached value is gone with the commit:")
    ask(base, "PATCH", path, 200, {"name": "Alan T."})
    answer = ask(base, "GET", path, 200)
    require(answer.body["name"] == "Alan T.", "expected the new name")

    print("\nPublish posts and page through them, with their authors, by cursor:")
    for number in range(5):
        post = {"author_id": users[number % 2]["id"], "title": f"Post {number}", "body": "Worth reading."}
        ask(base, "POST", "/posts", 201, post, quiet=number > 0)
    titles: list[str] = []
    query = "?limit=3"
    while query:
        page = ask(base, "GET", f"/posts{query}", 200).body
        titles += [post["title"] for post in page["items"]]
        query = f"?limit=3&cursor={page['next']}" if page["next"] else ""
    require(titles[:5] == [f"Post {number}" for number in (4, 3, 2, 1, 0)], "expected each post once, newest first")

    print("\nWrong requests get a response that names the mistake:")
    ask(base, "POST", "/users", 422, {"email": "nonsense", "name": "Alan", "role": "admin"})
    ask(base, "POST", "/users", 409, {"email": "alan@example.org", "name": "Another"})
    ask(base, "GET", "/posts?cursor=garbage", 400)

    print("\nThe dashboard reads its parts in parallel:")
    dashboard = ask(base, "GET", "/dashboard", 200).body
    require(dashboard["missing"] == [], "expected every part")
    ask(base, "GET", "/readyz", 200)


def ask(
    base: str, method: str, path: str, status: int, body: dict[str, str] | None = None, *, quiet: bool = False
) -> Answer:
    """Send a request, print it with its answer, and insist on the status."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - the URL is ours
        base + path, data, {"Content-Type": "application/json"} if data else {}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
            answer = Answer(response.status, _lower(response.headers), json.load(response))
    except urllib.error.HTTPError as error:
        answer = Answer(error.code, _lower(error.headers), json.load(error))
    if not quiet:
        text = answer.body["detail"] if answer.status >= 400 else json.dumps(answer.body)
        cached = f"  [Cache-Status: {answer.headers['cache-status']}]" if "cache-status" in answer.headers else ""
        print(f"  {method} {_short(path, 60)} -> {answer.status}{cached}\n      {_short(text, 100)}")
    require(answer.status == status, f"expected {status}, not {answer.status}: {answer.body}")
    return answer


def require(condition: bool, expectation: str) -> None:
    if not condition:
        raise SystemExit(f"The demo failed: {expectation}")


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise SystemExit(f"The service did not start; its log ends:\n{tail}") from None
            time.sleep(0.1)
