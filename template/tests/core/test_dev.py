"""Development servers leave nothing behind, even when the process that started them is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import psutil

from dev.__main__ import exports
from dev.serving import free_port
from dev.workspace import reap_orphans

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
from dev.servers import servers
from dev.workspace import workspace
with workspace() as home, servers(home, {}):
    print(home, flush=True)
    sys.stdin.read()
"""


def processes_in(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(home) in argument for argument in process.info["cmdline"] or []):
            found.append(process)
    return found


def test_nothing_is_left_of_a_killed_run_once_the_next_starts(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(program)],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.endswith("_URL")}
        | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        home = Path(process.stdout.readline().strip())
        assert home.is_dir()
        assert processes_in(home)
        process.send_signal(signal.SIGKILL)
    assert processes_in(home)

    reap_orphans()

    assert not home.exists()
    assert processes_in(home) == []


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


def test_what_it_prints_leads_another_terminal_to_its_servers() -> None:
    made = ("_URL", "_SECRET")
    environment = {key: value for key, value in os.environ.items() if not key.endswith(made)}
    with subprocess.Popen(
        [sys.executable, "-m", "dev"],
        cwd=ROOT,
        env=environment | {"PORT": str(free_port())},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("export "))
            Thread(target=process.stdout.read, daemon=True).start()

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
            # As a terminal does on Ctrl-C.
            os.killpg(process.pid, signal.SIGINT)
        # With which code depends on how far the service had come.
        process.wait(60)

    assert look.returncode == 0, look.stderr
    assert "No new upgrade operations detected." in look.stdout


def test_what_is_given_is_not_printed() -> None:
    variables = {"SOME_URL": "some://:it's@host:1/0", "DATABASE_URL": "postgresql://own"}

    line = exports(variables, given={"SOME_URL": "", "DATABASE_URL": "postgresql://own"})

    assert line == """export SOME_URL='some://:it'"'"'s@host:1/0'"""
    assert exports(variables, given=variables) == ""
