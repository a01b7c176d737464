"""Leave what the template no longer renders to the service: `hand_over.py PATH [PATH ...]`, stage after.

Copier deletes it, edited or not. It comes back as it is in the last commit, and no later update knows it.
"""

import os
import sys
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent))

from project import committed, inside, restore, run, say

HEADING = "No longer in the template. It stays, and is yours from now on; delete what you do not need:"


def main(_: str, paths: list[str]) -> None:
    released = {inside(path) for path in paths}
    # Not in the last commit: the team had deleted it. Still there: the template renders it after all.
    gone = [name for name in committed() if not os.path.lexists(name)]
    names = [name for name in gone if released & {name, *map(str, PurePosixPath(name).parents)}]
    restore(names)
    say(HEADING, names)


if __name__ == "__main__":
    run(main, "after", __doc__)
