"""Each record is one line, whatever it contains, and names its request."""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
from typing import Any
from uuid import UUID

import httpx2
import pytest

from app.core.telemetry.activity import Activity, current
from app.core.telemetry.logs import MAX_LINE_BYTES, MAX_TEXT_CHARS, JsonFormatter, TextFormatter
from dev.processes import free_port
from tests.core.serving import program
from tests.internals.commands import master_of, until


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no repr")


def record(message: Any, *args: Any, **extra: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "app.x", "levelname": "INFO", "msg": message, **extra})
    made.args = args
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert line.isprintable()
    fields: dict[str, Any] = json.loads(line)
    return fields


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("plain %s", ("text",), "plain text"),
        ("a\nb\r\x1b[31m\x85\u2028\x9b", (), "a\nb\r\x1b[31m\x85\u2028\x9b"),
        ("Grüße, 注文 🎉", (), "Grüße, 注文 🎉"),
        ("not UTF-8: \udcff", (), "not UTF-8: \\udcff"),
        ("two %s %s", ("one",), "two %s %s % ('one',): "),
        (Broken(), (), "<Broken without repr: ValueError>"),
        (7, (), "7"),
    ],
)
def test_any_message_is_one_line_of_json(
    message: Any, args: tuple[Any, ...], expected: str
) -> None:
    fields = as_json(record(message, *args))

    assert fields["message"].startswith(expected)
    assert fields["timestamp"].endswith("Z")
    assert (fields["level"], fields["logger"]) == ("INFO", "app.x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        (UUID(int=1), str(UUID(int=1))),
        ({1: {"a": None}}, {"1": {"a": None}}),
        (object, "<class 'object'>"),
        (Broken(), "<Broken without repr: ValueError>"),
        (2**70, str(2**70)),
        ("\udcff", "\\udcff"),
        (float("nan"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_extra_becomes_a_field(value: Any, expected: Any) -> None:
    assert as_json(record("x", value=value))["value"] == expected


def test_extra_changes_no_field_of_the_line() -> None:
    assert as_json(record("x", timestamp="y", level="z", logger="w"))["level"] == "INFO"


def test_a_huge_record_loses_its_middle() -> None:
    fields = as_json(record("a" * 10**6 + "z", value=["b" * 10**6]))

    assert len(fields["message"]) < MAX_TEXT_CHARS + 100
    assert fields["message"].endswith("z")
    assert len(json.dumps(fields)) < MAX_LINE_BYTES


def test_a_traceback_is_one_field_and_in_text_indented_lines() -> None:
    made = record("failed %s", "x\ny", value="a\nb")
    try:
        raise ValueError("first\n12:00:00.000 INFO app: forged")
    except ValueError:
        made.exc_info = sys.exc_info()

    assert as_json(made)["exception"].startswith("Traceback (most recent call last):\n")
    first, *others = TextFormatter().format(made).split("\n")
    assert first.endswith(r" INFO app.x: failed x\ny value=a\nb")
    assert others[-1] == "    12:00:00.000 INFO app: forged"
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_line_names_its_request_without_its_query(formatter: logging.Formatter) -> None:
    scope = {"type": "http", "method": "GET", "path": "/a\nb" + "x" * 10**4, "query_string": b"q=1"}
    token = current.set(Activity("the-id", scope))
    try:
        line = formatter.format(record("x"))
    finally:
        current.reset(token)

    assert all(part in line for part in ("the-id", "GET", "unmatched", "/a\\nb"))
    assert "q=1" not in line
    assert "\n" not in line
    assert len(line) < 1000


@pytest.mark.timeout(90)
def test_a_server_under_bad_requests_and_reloads_writes_json_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    command = ("gunicorn", "--config", "deploy/gunicorn.conf.py", "tests.internals.logged:app")
    variables = {"PORT": str(port), "LOG_FORMAT": "json", "ACCESS_LOG_SAMPLE": "1"}

    def is_ready(log: str) -> bool:
        return log.count("Application startup complete") == 2

    def send(data: bytes, reply: bytes = b"") -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(data)
            assert reply in connection.recv(4096)

    with program(*command, is_ready=is_ready, **variables):
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            client.get("/say/a%0a%1b[31m%ff?secret=1", headers={"X-Request-ID": "say"})
            client.get("/fail/7?secret=1", headers={"X-Request-ID": "fail", "Cookie": "secret"})
            client.post("/unavailable", content=b"secret", headers={"X-Request-ID": "post"})
            client.get("/unavailable", headers={"X-Request-ID": "unavailable"})
            client.get("/warn", headers={"X-Request-ID": "warn"})
        send(b"no http\r\n\r\n", b"400 Bad Request")
        send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431")
        # A client that leaves in the middle of a response.
        send(b"GET /endless HTTP/1.1\r\nHost: a\r\nX-Request-ID: left\r\n\r\n", b"200 OK")
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            master = master_of(port)
            for _ in range(2):
                before = set(master.children())
                master.send_signal(signal.SIGHUP)
                until(lambda: before.isdisjoint(master.children()))  # noqa: B023 - called at once
            client.get("/fail/8", headers={"X-Request-ID": "reloaded"})

    output = capsys.readouterr().out
    assert "secret" not in output
    lines = [json.loads(line) for line in output.splitlines() if line]
    assert all(line.keys() >= {"timestamp", "level", "logger", "message"} for line in lines)
    starts = [line for line in lines if line["message"].startswith(("Booting", "Started server"))]
    assert len(starts) == 3 * 4
    reloads = [line["logger"] for line in lines if line["message"].startswith("Handling signal: h")]
    assert reloads == ["gunicorn.error"] * 2
    assert any("2 workers" in line["message"] for line in lines)

    def of(request: str) -> list[tuple[str, str, str, str | None, int | None]]:
        names = ("logger", "level", "route", "exception", "status")
        found = [line for line in lines if line.get("request_id") == request]
        return [tuple(line.get(name) for name in names) for line in found]

    access = ("app.access", "INFO")
    assert of("say") == [
        ("app.logged", "INFO", "/say/{text}", None, None),
        (*access, "/say/{text}", None, 200),
    ]
    (_, _, _, _, status), (logger, level, route, traceback, _) = of("fail")
    assert (status, logger, level, route) == (500, "uvicorn.error", "ERROR", "/fail/{number}")
    assert traceback is not None
    assert traceback.endswith("LookupError: no\nINFO forged 7")
    messages = [line["message"] for line in lines if line.get("request_id") == "fail"]
    cause = r"LookupError('no\nINFO forged 7')"
    assert messages[1] == f"Exception in ASGI application: {cause}"
    assert [line[0] for line in of("reloaded")] == ["app.access", "uvicorn.error"]
    assert of("post") == [(*access, "/unavailable", None, 405)]
    assert "Come back later." in [line["message"] for line in lines]
    assert [line[0] for line in of("unavailable")] == ["app.core.http.problems", "app.access"]
    assert [line[0] for line in of("warn")] == ["py.warnings", "app.access"]
    assert of("left") == [(*access, "/endless", None, 499)]


def test_an_uncaught_error_at_the_start_is_a_line() -> None:
    program = (
        "from app.core.telemetry.logs import configure_logging;"
        "configure_logging('INFO', 'json'); raise LookupError('gone')"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert (process.returncode, process.stderr) == (1, "")
    fields = json.loads(process.stdout)
    assert fields["level"] == "CRITICAL"
    assert fields["exception"].endswith("LookupError: gone")


LOGGING = """
import logging, sys
from app.core.telemetry.logs import configure_logging
configure_logging("INFO", "json")
logger = logging.getLogger("app.x")
for number in range(5000):
    logger.info("x" * 1000, extra={"number": number})
print("written", file=sys.stderr, flush=True)
sys.stdin.readline()
logger.info("last")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux opens a pipe again")
@pytest.mark.timeout(90)
def test_a_pipe_that_nothing_reads_blocks_no_process() -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", LOGGING], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdin
    assert process.stderr
    with process:
        # It is there although nothing has read the five megabytes.
        assert process.stderr.readline() == "written\n"
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.extend(process.stdout or ()))
        reader.start()
        # A byte of the pipe is free when the first line is there.
        until(lambda: bool(read))
        process.stdin.write("\n")
        process.stdin.close()
        reader.join()
    # A line that was cut is no JSON.
    lines = [json.loads(line) for line in read if line.startswith("{") and line.endswith("}\n")]
    numbers = [line["number"] for line in lines if "number" in line]
    (dropped,) = [line["message"] for line in lines if "dropped" in line["message"]]

    assert numbers == list(range(len(numbers)))
    assert int(dropped.split()[0]) == 5000 - len(numbers)
    assert lines[-1]["message"] == "last"
    assert process.returncode == 0
