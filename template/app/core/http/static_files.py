"""Static files under names that carry a hash of their content, so that caches keep them for years.

`python -m app static DIRECTORY` copies the team's `app/static/` to such names, with compressed
variants, and STATIC_DIRECTORY names what the service serves. Without it, which is for development,
the service serves `app/static/` itself, and clients ask for each file again.
"""

import json
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from fastapi import FastAPI
from servestatic import ServeStaticASGI
from servestatic.cli import main as servestatic
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from app.core.settings import ConfigurationError

SOURCE = Path(__file__).parents[2] / "static"
URL = "/static"
MANIFEST = "staticfiles.json"

# The library's own pattern asks for a suffix.
_HASHED_NAME = re.compile(r"\.[0-9a-f]{12}(\.[^./]+)?$")

_urls: dict[str, str] = {}


class NoStaticFile(LookupError):
    """A name that is not among the static files."""


def static_url(name: str) -> str:
    """Return the path of a file: `/static/css/site.990643497256.css` for `css/site.css`.

    Raises:
        NoStaticFile: when there was no such file at start-up.
    """
    try:
        return _urls[name]
    except KeyError:
        raise NoStaticFile(f"There was no static file {name!r} at start-up.") from None


def mount(
    app: FastAPI, directory: Path | None, source: Path = SOURCE, *, root_path: str = ""
) -> None:
    """Serve the files that `publish` wrote to `directory`; without one, those of `source`.

    `root_path` is the prefix that a proxy removes from each path.

    Raises:
        ConfigurationError: when `directory` was not written by `publish`.
    """
    if directory:
        try:
            names = _read_manifest(directory)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"STATIC_DIRECTORY: {directory} was not written by `python -m app static`: {error}"
            ) from None
    else:
        paths = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
        names = {path.as_posix(): path.as_posix() for path in paths}
    prefix = f"{root_path}{URL}"
    _urls.clear()
    _urls.update((name, f"{prefix}/{quote(path)}") for name, path in names.items())
    files = ServeStaticASGI(
        _not_found,
        root=directory or source,
        prefix=prefix,
        autorefresh=directory is None,
        max_age=0,
        immutable_file_test=lambda _, url: bool(directory and _HASHED_NAME.search(url)),
        allow_all_origins=False,
    )
    app.mount(URL, files)


def publish(directory: Path, source: Path = SOURCE) -> int:
    """Copy the files to their hashed names in `directory`; return how many there are.

    Nothing is deleted, because pages of earlier releases are still open somewhere. The manifest is
    written last. Hidden files and symbolic links are left out.

    Raises:
        OSError: when a file cannot be read or written, or `directory` is within `source`.
    """
    if directory.resolve().is_relative_to(source.resolve()):
        raise OSError(f"{directory} is within {source}.")
    with TemporaryDirectory() as work:
        public, hashed = Path(work, "public"), Path(work, "hashed")
        public.mkdir()
        if source.is_dir():
            shutil.copytree(source, public, ignore=_private, dirs_exist_ok=True)
        servestatic(["--quiet", "--all", str(public), str(hashed)])
        names = _read_manifest(hashed)
        # The library logs an error and goes on.
        if failed := [name for name in names if name == names[name]]:
            raise OSError(f"{failed[0]} could not be hashed.")
        others = shutil.ignore_patterns(MANIFEST)
        shutil.copytree(
            hashed, directory, ignore=others, copy_function=_replace, dirs_exist_ok=True
        )
        _replace(str(hashed / MANIFEST), str(directory / MANIFEST))
    return len(names)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    # Another release may serve this name elsewhere already: no cache may keep the answer.
    raise HTTPException(404, headers={"Cache-Control": "no-store"})


def _read_manifest(directory: Path) -> dict[str, str]:
    names: dict[str, str] = json.loads((directory / MANIFEST).read_text())["paths"]
    return names


def _private(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".") or Path(directory, name).is_symlink()]


def _replace(source: str, target: str) -> None:
    """Copy a file in one step, as somebody may be reading the target."""
    shutil.copy2(source, f"{target}.part")
    os.replace(f"{target}.part", target)
