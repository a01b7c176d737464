"""Unpack the source distribution of the installed FastAPI, which has its tests: `fetch.py DIRECTORY`."""

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

directory = Path(sys.argv[1])
name = f"fastapi-{version('fastapi')}"
options = ["--quiet", "--no-deps", "--no-binary=fastapi", f"--dest={directory}"]
subprocess.run([sys.executable, "-m", "pip", "download", *options, name.replace("-", "==")], check=True)
with tarfile.open(directory / f"{name}.tar.gz") as archive:
    archive.extractall(directory, filter="data")
(directory / name).rename(directory / "source")
