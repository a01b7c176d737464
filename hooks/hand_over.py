"""Keep files that the template no longer renders: `hand_over.py PATH [PATH ...]`, stage after.

Copier deletes them with their edits. This hook restores them from the last commit; later updates do not touch them.
"""

import os
import sys
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent))

from project import committed, inside, restore, run, say

HEADING = "No longer in the template. The files stay, and are yours from now on; delete those that you do not need:"


def main(_: str, paths: list[str]) -> None:
    released = {inside(path) for path in paths}
    # A file that is not in the last commit: the team deleted it. A file that still exists: the template renders it.
    gone = [name for name in committed() if not os.path.lexists(name)]
    names = [name for name in gone if released & {name, *map(str, PurePosixPath(name).parents)}]
    restore(names)
    say(HEADING, names)


if __name__ == "__main__":
    run(main, "after", __doc__)
