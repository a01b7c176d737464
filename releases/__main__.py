"""Prepare a version of the template: `nox -s release -- 1.2.0`, or `-- minor`; without one, show the open tasks.

Write a section of CHANGELOG.md and nothing else; you commit, tag and push after you have read it.
"""

import argparse
import logging
import sys
from pathlib import Path

from releases.prepare import run

if __name__ == "__main__":
    # Copier's git commands are of no interest here.
    logging.getLogger("plumbum").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="nox -s release --", description=__doc__)
    parser.add_argument("version", nargs="?", help="1.2.0, 1.2.0rc1, major, minor or patch")
    sys.exit(run(Path(__file__).parents[1], parser.parse_args().version))
