"""The real server: its addresses, its parsers, blocked workers; and its end with its test."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from httpx2 import Client, HTTPTransport, TransportError, get

from app.core.server.addresses import require_address
from app.core.server.protocol import MAX_HEAD_BYTES
from dev.processes import free_port
from tests.core.serving import program, serving
from tests.internals.commands import run


def command(process: psutil.Process) -> list[str]:
    """Its command line; empty when it has ended meanwhile, as children of other tests may."""
    try:
        arguments: list[str] = process.cmdline()
    except psutil.NoSuchProcess:
        return []
    return arguments


def test_a_test_that_fails_leaves_no_process() -> None:
    with pytest.raises(ZeroDivisionError), serving():
        children = psutil.Process().children(recursive=True)
        servers = [process for process in children if "gunicorn" in command(process)]
        raise ZeroDivisionError

    assert len(servers) >= 2  # the master, and at least the worker that has answered
    _, alive = psutil.wait_procs(servers, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def answers(client: Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except TransportError:
        return False


def started(log: str) -> bool:
    return "Application startup complete" in log


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """The path of a socket has at most 103 bytes on macOS; pytest's own directories are longer."""
    with TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


@pytest.mark.timeout(90)
def test_a_unix_socket_that_a_killed_service_left_behind_is_replaced(
    short_directory: Path,
) -> None:
    path = short_directory / "app.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    port = str(free_port())
    variables = {"HOST": f"unix:{path}", "WEB_CONCURRENCY": "1", "TRUSTED_PROXIES": "unix"}
    variables["ADMIN_PORT"] = port
    client = Client(transport=HTTPTransport(uds=str(path)), base_url="http://test")
    with client, program("app", "serve", is_ready=started, **variables):
        headers = {"X-Forwarded-For": "1.2.3.4, unknown", "X-Forwarded-Proto": "ws"}
        # The peer has no address.
        for sent in ({}, headers):
            public = client.get("/readyz", headers=sent).raise_for_status()
        admin = get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
        checked, served = run("check", **variables), run("serve", **variables)

        assert admin.json().keys() > public.json().keys()
        assert checked.returncode == 0
        assert "only this machine" not in checked.stdout
        assert served.returncode == 1
        assert served.stderr.splitlines()[-1] == f"HOST: another process listens on unix:{path}"
    assert not path.exists()


@pytest.mark.parametrize(
    "host", ["unix:app.sock", "unix:/gone/app.sock", f"unix:{__file__}", f"unix:/{'a' * 110}"]
)
def test_a_wrong_path_of_a_socket_is_one_sentence(host: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(f"HOST: cannot listen on '{host}': ")):
        require_address(host)


def test_a_taken_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = run("serve", PORT=str(port))

    assert process.returncode == 1
    reason = f"PORT: cannot listen on port {port} of 127.0.0.1: Address already in use"
    assert process.stderr.splitlines()[-1] == reason
    assert "Traceback" not in process.stderr


@pytest.mark.timeout(90)
def test_the_service_works_without_uvloop_and_httptools(tmp_path: Path) -> None:
    for name in ("uvloop", "httptools"):
        (tmp_path / f"{name}.py").write_text("raise ImportError(__name__)")
    with serving(WEB_CONCURRENCY="1", PYTHONPATH=str(tmp_path)) as client:
        client.get("/readyz").raise_for_status()
        large = client.get("/livez", headers={"X": "x" * 2 * MAX_HEAD_BYTES})
        assert large.status_code == 400
        assert large.headers["content-type"] == "application/problem+json"


BLOCKING = """
import time
from app.main import app
from tests.internals.declared import ANYBODY

def block_here():
    time.sleep(60)

@app.get("/block", dependencies=ANYBODY)
async def block() -> None:
    block_here()
"""


@pytest.mark.timeout(90)
def test_a_blocked_worker_is_replaced_and_the_log_shows_the_call(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING)
    port = str(free_port())
    command = ["gunicorn", "-c", "deploy/gunicorn.conf.py", "--timeout", "2", "blocking:app"]
    variables = {"PORT": port, "WEB_CONCURRENCY": "1", "PYTHONPATH": str(tmp_path)}
    with (
        Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
        program(*command, is_ready=lambda _: answers(client), **variables),
    ):
        with pytest.raises(TransportError):
            client.get("/block")
        deadline = time.monotonic() + 30
        while not answers(client):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    log = capfd.readouterr().out
    assert "a call blocked its event loop for 2 s" in log
    assert "in block_here" in log
