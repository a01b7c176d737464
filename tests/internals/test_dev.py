"""Nothing that tests and `dev` start outlives them, even if they are killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest

from dev import processes
from dev.__main__ import attached, exports
from dev.guardian import runs
from dev.postgres import postgres
from dev.processes import ServerUnavailable, StartFailed, free_port, workspace

ROOT = Path(__file__).parents[2]
# Servers, a program of tests, and one on the terminal. That sleeps first, because `attached` names
# it to the guardian after its start.
PROGRAM = """
from dev.__main__ import attached
from dev.servers import servers
from tests.core.serving import serving
with servers({}), serving():
    attached(["/bin/sh", "-c", "sleep 1; echo ready; exec sleep 600"])
"""


def test_nothing_is_left_of_a_killed_run() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.endswith("_URL")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        family = psutil.Process(process.pid).children(recursive=True)
        commands = [" ".join(each.cmdline()) for each in family]
        process.kill()
        # Until its guardian has ended, which has the same standard error.
        _, errors = process.communicate(timeout=60)

    assert errors == ""
    for program in ("postgres -D", "gunicorn", "sleep 600", "guardian.py"):
        assert any(program in command for command in commands), commands
    _, alive = psutil.wait_procs(family, timeout=5)  # the guardian itself
    assert [each for each in alive if runs(each)] == []
    (home,) = {
        Path(command.split(" -D ")[1].split()[0]) for command in commands if " -D " in command
    }
    assert not home.parents[1].exists()


# Is killed when the program runs.
KILLED = """
import os, signal
from pathlib import Path
import psutil
from dev import processes
class Popen(psutil.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
psutil.Popen = Popen
processes.start(["sleep", "600"], Path.cwd())
"""


def test_a_program_ends_with_a_run_that_is_killed_at_its_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        # Until its guardian has ended, which has the same standard error.
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    pid = int(run.stdout)
    try:
        assert (run.returncode, run.stderr) == (-signal.SIGKILL, "")
        assert not psutil.pid_exists(pid) or not runs(psutil.Process(pid))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_an_initdb_that_takes_too_long_ends_the_start_with_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dev.postgres._INITDB_TIMEOUT_S", 0.001)
    with (
        workspace() as path,
        pytest.raises(StartFailed, match=r"initdb took more than 0\.001 s; its log ends:"),
        postgres(path),
    ):
        pass


def test_a_command_runs_on_migrated_servers() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dev", "run", sys.executable, "-m", "alembic", "check"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.endswith("_URL")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert "No new upgrade operations detected." in process.stdout


def test_what_it_prints_leads_another_terminal_to_its_servers(tmp_path: Path) -> None:
    made = ("_URL", "_SECRET")
    environment = {key: value for key, value in os.environ.items() if not key.endswith(made)}
    output = tmp_path / "output"
    with (
        output.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", "dev"],
            cwd=ROOT,
            env=environment | {"PORT": str(free_port())},
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            line = line_beginning("export ", output, process)
            look = subprocess.run(
                ["/bin/sh", "-c", f'{line}exec "$0" -m alembic check', sys.executable],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            process.terminate()

    assert look.returncode == 0, look.stderr
    assert "No new upgrade operations detected." in look.stdout


def line_beginning(start: str, output: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for line in output.read_text().splitlines(keepends=True):
            if line.startswith(start) and line.endswith("\n"):
                return line
        time.sleep(0.05)
    raise AssertionError(f"no line begins with {start!r}:\n{output.read_text()}")


def test_ctrl_c_is_for_the_programs_unless_they_do_not_end() -> None:
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "os.kill(os.getppid(), signal.SIGINT); time.sleep({}); exit(3)"
    )
    # Whatever runs the tests may ignore it, as a job in the background does.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        waited = attached([sys.executable, "-c", deaf.format(0.5)])
        stopped = attached([sys.executable, "-c", deaf.format(60)], patience_s=0.1)
        restored = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)

    assert waited == 3
    assert stopped == 130
    assert restored is signal.default_int_handler


def test_what_is_given_is_not_printed() -> None:
    variables = {"SOME_URL": "some://:it's@host:1/0", "DATABASE_URL": "postgresql://own"}

    line = exports(variables, given={"SOME_URL": "", "DATABASE_URL": "postgresql://own"})

    assert line == """export SOME_URL='some://:it'"'"'s@host:1/0'"""
    assert exports(variables, given=variables) == ""


def test_each_free_port_is_given_once() -> None:
    ports = [free_port() for _ in range(200)]

    assert len(set(ports)) == 200
    assert max(ports) < 32_768  # where the ports of outgoing connections begin


def test_a_port_that_a_server_has_is_not_free() -> None:
    # The only ones that have not been given: one is taken, one is free.
    taken, free = free_port(), free_port()
    only = [taken, free]
    with (
        patch.object(processes, "_PORTS", only),
        patch.object(processes, "_given", set()),
        socket.create_server(("127.0.0.1", taken)),
    ):
        assert free_port() == free
        with pytest.raises(ServerUnavailable, match="No port from"):
            free_port()
