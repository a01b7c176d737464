"""Static files: kept for ever under their hashed names, and nothing else is served."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient

from app.core.application import create_app
from app.core.http.static_files import (
    IMMUTABLE,
    ForeignDirectory,
    HashedFiles,
    NoStaticFile,
    hashed_files,
    static_url,
)
from app.core.operations.settings import CoreSettings, load

CSS = "body { color: green }"
SITE = f"css/site.{hashlib.blake2b(CSS.encode(), digest_size=4).hexdigest()}.css"
OTHER_HASH = "css/site.00000000.css"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Static files, and beside them what must not get out."""
    root = tmp_path / "static"
    (root / "css").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "css" / "site.css").write_text(CSS)
    (root / "LICENSE").write_text("free")
    (root / "bundle.tar.gz").write_bytes(b"packed")
    (root / "an image.webp").write_bytes(b"RIFF")
    (root / ".env").write_text("SECRET=hunter2")
    (root / ".git" / "config").write_text("hunter2")
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("hunter2")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "links").symlink_to(tmp_path / "secrets")
    return root


def application(root: Path, monkeypatch: pytest.MonkeyPatch, serve: str) -> FastAPI:
    monkeypatch.setenv("SERVE_STATIC", serve)
    router = APIRouter(prefix="/things")

    @router.get("")
    async def things() -> list[str]:
        return []

    return create_app(load(CoreSettings), router, title="t", description="d", static=root)


@pytest.fixture
def static_app(root: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """An application that serves the files; made, like a real one, before its event loop runs."""
    return application(root, monkeypatch, "true")


@pytest.fixture
async def static(static_app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(static_app), base_url="http://test") as client:
        yield client


def test_a_url_has_the_hash_of_the_content(root: Path) -> None:
    files = HashedFiles(root)

    assert files.url("css/site.css") == f"/static/{SITE}"
    assert files.url("an image.webp").startswith("/static/an%20image.")
    (root / "css" / "site.css").write_text("body {}")
    assert HashedFiles(root).url("css/site.css") != f"/static/{SITE}"


@pytest.mark.parametrize("name", ["css/sit.css", "css", ".env", "link", "links/key", "../secret"])
def test_an_unknown_name_is_named(name: str, root: Path) -> None:
    with pytest.raises(NoStaticFile, match=r"There is no file '.*' in "):
        HashedFiles(root).url(name)


def test_the_service_has_urls_of_its_own() -> None:
    with pytest.raises(NoStaticFile, match=r"app/static"):
        static_url("not/there.css")


async def test_a_file_is_kept_for_ever(static: AsyncClient) -> None:
    response = await static.get(f"/static/{SITE}")

    assert (response.status_code, response.text) == (200, CSS)
    assert response.headers["Cache-Control"] == IMMUTABLE
    assert response.headers["Content-Type"] == "text/css; charset=utf-8"
    head = await static.head(f"/static/{SITE}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(CSS))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("an image.webp", "image/webp"),
        ("LICENSE", "application/octet-stream"),
        ("bundle.tar.gz", "application/octet-stream"),
    ],
)
async def test_types_are_those_of_no_machine(
    name: str, media_type: str, static: AsyncClient, root: Path
) -> None:
    response = await static.get(hashed_files(root).url(name))

    assert (response.status_code, response.headers["Content-Type"]) == (200, media_type)


async def test_who_has_it_is_told_so(static: AsyncClient) -> None:
    etag = (await static.get(f"/static/{SITE}")).headers["ETag"]

    response = await static.get(f"/static/{SITE}", headers={"If-None-Match": f'"other", W/{etag}'})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["Cache-Control"] == IMMUTABLE
    assert response.headers["ETag"] == etag
    other = await static.get(f"/static/{SITE}", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


async def test_a_part_of_a_file(static: AsyncClient) -> None:
    response = await static.get(f"/static/{SITE}", headers={"Range": "bytes=0-3"})

    assert (response.status_code, response.text) == (206, CSS[:4])


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/css",
        "/css/",
        "/css/site.css",
        f"/{OTHER_HASH}",
        "/.env",
        "/.git/config",
        "/link",
        "/links/key",
        "/../secret",
        "/..%2fsecret",
        "/css/..%2f..%2fsecret",
        "/%2e%2e/secret",
        "//etc/passwd",
        "/%00",
        "/" + "x" * 5000,
    ],
)
async def test_nothing_else_is_served(path: str, static: AsyncClient) -> None:
    response = await static.get(f"/static{path}")

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "immutable" not in response.headers.get("Cache-Control", "")
    assert "hunter2" not in response.text


async def test_a_hash_that_is_not_there_yet_is_not_remembered(static: AsyncClient) -> None:
    response = await static.get(f"/static/{OTHER_HASH}")

    assert "no-store" in response.headers["Cache-Control"]


async def test_files_are_only_read(static: AsyncClient) -> None:
    response = await static.post(f"/static/{SITE}")

    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_a_changed_file_is_not_kept(static: AsyncClient, root: Path) -> None:
    etag = (await static.get(f"/static/{SITE}")).headers["ETag"]
    changed = root / "css" / "site.css"
    # Of the same length: only the time of the change tells.
    await asyncio.to_thread(changed.write_text, CSS.replace("green", "black"))
    await asyncio.to_thread(os.utime, changed, (0, 0))

    response = await static.get(f"/static/{SITE}", headers={"If-None-Match": etag})

    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-cache")
    await asyncio.to_thread(changed.unlink)
    assert (await static.get(f"/static/{SITE}")).status_code == 404


def test_the_other_routes_stay_flat(static_app: FastAPI) -> None:
    assert not any(hasattr(route, "include_context") for route in static_app.router.routes)
    assert "/things" in static_app.openapi()["paths"]


@pytest.fixture
def plain_app(root: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    return application(root, monkeypatch, "false")


@pytest.fixture
def empty_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    return application(tmp_path / "absent", monkeypatch, "true")


async def test_files_are_served_only_if_told_to(plain_app: FastAPI, empty_app: FastAPI) -> None:
    for app in (plain_app, empty_app):
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            assert (await client.get(f"/static/{SITE}")).status_code == 404
            assert (await client.get("/things")).status_code == 200


def published(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_text() for path in files}


def test_copies_have_hashed_names_and_a_manifest(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "cdn" / "static"

    count = HashedFiles(root).publish(out)

    files = published(out)
    names = json.loads(files.pop("manifest.json"))
    assert count == 4
    assert set(names) == {"css/site.css", "LICENSE", "an image.webp", "bundle.tar.gz"}
    assert set(names.values()) == set(files)
    assert names["css/site.css"] == SITE
    assert files[SITE] == CSS


def test_copies_of_earlier_releases_stay(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "cdn"
    out.mkdir()
    HashedFiles(root).publish(out)
    first = published(out)
    HashedFiles(root).publish(out)
    assert published(out) == first

    (root / "css" / "site.css").write_text("body {}")
    HashedFiles(root).publish(out)

    second = published(out)
    assert second.keys() > first.keys()
    assert json.loads(second["manifest.json"])["css/site.css"] != SITE


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.html", "<html>"),
        ("manifest.json", '{"name": "a web app", "start_url": "/"}'),
        ("manifest.json", '{"index.js": {"file": "index.0a1b2c3d.js"}}'),
        ("manifest.json", "[]"),
        ("manifest.json", "not JSON"),
    ],
)
def test_a_directory_of_others_is_left_alone(
    name: str, content: str, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    out.mkdir()
    (out / name).write_text(content)

    with pytest.raises(ForeignDirectory, match=r"is not empty, and has no manifest\.json"):
        HashedFiles(root).publish(out)

    assert published(out) == {name: content}


def test_the_originals_are_left_alone(root: Path) -> None:
    for directory in (root, root / "new"):
        with pytest.raises(ForeignDirectory, match="where the originals are"):
            HashedFiles(root).publish(directory)


def test_an_interrupted_copy_is_completed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "cdn"
    files = HashedFiles(root)
    (root / "css" / "site.css").unlink()
    with pytest.raises(FileNotFoundError):
        files.publish(out)
    (root / "css" / "site.css").write_text(CSS)

    files.publish(out)

    assert set(json.loads((out / "manifest.json").read_text()).values()) < set(published(out))
    assert list(out.rglob(".*")) == []
