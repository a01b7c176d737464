"""The test server ends with its test, however the test ends."""

import psutil
import pytest

from tests.core.serving import serving


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
    _, alive = psutil.wait_procs(servers, timeout=1)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
