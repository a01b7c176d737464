"""Prepare a version of the template: `nox -s release -- 1.2.0`, or `-- minor`; without one, show the open tasks.

The command writes a section of CHANGELOG.md, and nothing else. Read the section, then commit, tag and push.
"""

import argparse
import logging
import sys
from pathlib import Path

from releases.prepare import run

if __name__ == "__main__":
    # Hide the log of Copier's git commands.
    logging.getLogger("plumbum").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="nox -s release --", description=__doc__)
    parser.add_argument("version", nargs="?", help="1.2.0, 1.2.0rc1, major, minor or patch")
    sys.exit(run(Path(__file__).parents[1], parser.parse_args().version))
