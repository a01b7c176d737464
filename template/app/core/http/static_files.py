"""Static files under names that carry a hash of their content: caches may keep them for ever.

`app/static/` is the team's, and may be absent. Its files are hashed once, at start-up, so a change
shows after a restart; hidden files and symbolic links are left out. Nothing else is ever served,
however a path is spelled: a request is looked up among these names, not on the disk.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from mimetypes import MimeTypes
from os import PathLike, stat_result
from pathlib import Path, PurePath
from secrets import token_hex
from typing import NamedTuple
from urllib.parse import quote

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

ROOT = Path(__file__).parents[1] / "static"
URL = "/static"
IMMUTABLE = "public, max-age=31536000, immutable"
MANIFEST = "manifest.json"

_HASHED_NAME = re.compile(r".+\.[0-9a-f]{8}(\.[^./]+)?")
# Not the types of this machine, which an image may lack; and what Python learnt after 3.11.
_MEDIA_TYPES = MimeTypes()
for _type, _suffix in [
    ("font/woff", ".woff"),
    ("font/woff2", ".woff2"),
    ("image/avif", ".avif"),
    ("image/webp", ".webp"),
    ("text/javascript", ".js"),
    ("text/javascript", ".mjs"),
]:
    _MEDIA_TYPES.add_type(_type, _suffix)


class NoStaticFile(LookupError):
    """A name that is not among the static files."""


class ForeignDirectory(ValueError):
    """A directory that holds something else than published static files."""


class StaticFile(NamedTuple):
    """One file as it was hashed; `name` and `hashed_name` are relative, with slashes."""

    name: str
    hashed_name: str
    digest: str
    media_type: str
    size: int
    mtime_ns: int


def static_url(name: str) -> str:
    """`css/site.css` as `/static/css/site.0f3a9c21.css`.

    Raises:
        NoStaticFile: when there is no such file.
    """
    return hashed_files(ROOT).url(name)


def install(app: FastAPI, root: Path, *, serve: bool) -> None:
    """Hash the files below `root` now, before there are requests, and serve them if told to."""
    files = hashed_files(root)
    if serve:
        app.mount(URL, files)


@cache
def hashed_files(root: Path) -> "HashedFiles":
    """The files below `root`, hashed by the first who asks."""
    return HashedFiles(root)


class HashedFiles(StaticFiles):
    def __init__(self, root: Path) -> None:
        super().__init__(directory=root, check_dir=False)
        self.config_checked = True  # it may be absent
        self.root = root
        self._files = {file.name: file for file in _files(root)}
        self._served = {file.hashed_name: file for file in self._files.values()}

    def url(self, name: str) -> str:
        """The path under which the file is served.

        Raises:
            NoStaticFile: when there is no such file.
        """
        try:
            return f"{URL}/{quote(self._files[name].hashed_name)}"
        except KeyError:
            raise NoStaticFile(f"There is no file {name!r} in {self.root}.") from None

    async def get_response(self, path: str, scope: Scope) -> Response:
        file = self._served.get(path)
        if file is None:
            # Of a release that starts to serve elsewhere, maybe: no cache may remember this.
            raise HTTPException(HTTPStatus.NOT_FOUND, headers={"Cache-Control": "no-store"})
        return await super().get_response(file.name, scope)

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = HTTPStatus.OK,
    ) -> Response:
        file = self._served[self.get_path(scope)]
        if (stat_result.st_size, stat_result.st_mtime_ns) == (file.size, file.mtime_ns):
            headers = {"Cache-Control": IMMUTABLE, "ETag": f'"{file.digest}"'}
        else:
            # Changed since it was hashed: the name does not tell its content any more.
            headers = {"Cache-Control": "no-cache"}
        response = FileResponse(
            full_path, status_code, headers, file.media_type, stat_result=stat_result
        )
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
        return response

    def publish(self, directory: Path) -> int:
        """Copy the files to their hashed names in `directory`; returns how many there are.

        What earlier releases published stays, because their pages are still open somewhere.
        `manifest.json` has the names of this one, and is written when all files are there.

        Raises:
            ForeignDirectory: when something else is in the directory.
        """
        if directory.resolve().is_relative_to(self.root.resolve()):
            raise ForeignDirectory(f"{directory} is where the originals are.")
        manifest = directory / MANIFEST
        if directory.is_dir() and any(directory.iterdir()) and not _is_manifest(manifest):
            raise ForeignDirectory(
                f"{directory} is not empty, and has no {MANIFEST} of static files: name another."
            )
        directory.mkdir(parents=True, exist_ok=True)
        if not manifest.exists():
            # If this is interrupted, the next attempt knows the directory.
            with _replacing(manifest) as part:
                part.write_text("{}\n")
        for file in self._files.values():
            target = directory / file.hashed_name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with _replacing(target) as part:
                    shutil.copyfile(self.root / file.name, part)
        names = {file.name: file.hashed_name for file in self._files.values()}
        with _replacing(manifest) as part:
            part.write_text(json.dumps(names, indent=2) + "\n")
        return len(names)


def _files(root: Path) -> Iterator[StaticFile]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield _hashed(path, name)


def _hashed(path: Path, name: PurePath) -> StaticFile:
    # Before the content is read: a change meanwhile is then seen as one.
    stat = path.stat()
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=4)).hexdigest()
    media_type, encoding = _MEDIA_TYPES.guess_type(name.name)
    return StaticFile(
        name=name.as_posix(),
        hashed_name=name.with_name(f"{name.stem}.{digest}{name.suffix}").as_posix(),
        digest=digest,
        media_type="application/octet-stream" if encoding or not media_type else media_type,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )


def _is_manifest(path: Path) -> bool:
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(names, dict) and all(
        isinstance(name, str) and _HASHED_NAME.fullmatch(name) for name in names.values()
    )


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A path to write to, which then takes the place of `target` in one step."""
    part = target.with_name(f".{target.name}.{token_hex(4)}")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
