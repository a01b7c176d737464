"""Static files: kept for years under their hashed names, and nothing else is served."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from app.core.http import problems
from app.core.http.hosts import Hosts
from app.core.http.static_files import NoStaticFile, mount, publish, static_url
from app.core.settings import ConfigurationError
from tests.internals.commands import run

CSS = "body { color: green }" * 100
SITE = "css/site.6ead4ced76ac.css"
OTHER_HASH = "css/site.000000000000.css"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Static files, and beside them files that must not be served."""
    source = tmp_path / "static"
    (source / "css").mkdir(parents=True)
    (source / ".git").mkdir()
    (source / "css" / "site.css").write_text(CSS)
    (source / "LICENSE").write_text("free")
    (source / "bundle.tar.gz").write_bytes(b"packed")
    (source / "an image.webp").write_bytes(b"RIFF")
    (source / ".env").write_text("SECRET=hunter2")
    (source / ".git" / "config").write_text("hunter2")
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("hunter2")
    (source / "link").symlink_to(tmp_path / "secret")
    (source / "links").symlink_to(tmp_path / "secrets")
    return source


@pytest.fixture
def published(source: Path, tmp_path: Path) -> Path:
    publish(tmp_path / "published", source)
    return tmp_path / "published"


def application(directory: Path | None, source: Path) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    problems.install(app)
    mount(app, directory, source)
    return app


@pytest.fixture
def static_app(published: Path, source: Path) -> FastAPI:
    """An application that serves the files; made, like a real one, before its event loop runs."""
    return application(published, source)


@pytest.fixture
async def static(static_app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(static_app), base_url="http://test") as client:
        yield client


def contents(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        for path in files
        if path.suffix not in (".br", ".gz") or path.name.startswith("bundle")
    }


def test_a_url_has_the_hash_of_the_content(static_app: FastAPI, source: Path) -> None:
    assert static_url("css/site.css") == f"/static/{SITE}"
    assert static_url("an image.webp").startswith("/static/an%20image.")


@pytest.mark.parametrize("name", ["css/sit.css", "css", ".env", "link", "links/key", "../secret"])
def test_an_unknown_name_is_named(name: str, static_app: FastAPI) -> None:
    with pytest.raises(NoStaticFile, match=r"There was no static file '.*' at start-up"):
        static_url(name)


async def test_a_file_is_kept_for_years(static: AsyncClient) -> None:
    response = await static.get(f"/static/{SITE}")

    assert (response.status_code, response.text) == (200, CSS)
    assert response.headers["Cache-Control"] == "max-age=315360000, public, immutable"
    assert response.headers["Content-Type"] == 'text/css; charset="utf-8"'
    head = await static.head(f"/static/{SITE}")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity"])
async def test_a_client_gets_an_encoding_that_it_knows(encoding: str, static: AsyncClient) -> None:
    response = await static.get(f"/static/{SITE}", headers={"Accept-Encoding": encoding})

    assert response.headers.get("Content-Encoding", "identity") == encoding
    assert response.headers["Vary"] == "Accept-Encoding"
    assert (int(response.headers["Content-Length"]) < 200) == (encoding != "identity")


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("an image.webp", "image/webp"),
        ("LICENSE", "application/octet-stream"),
        ("bundle.tar.gz", "application/octet-stream"),
    ],
)
async def test_types_are_those_of_no_machine(
    name: str, media_type: str, static: AsyncClient
) -> None:
    response = await static.get(static_url(name))

    assert (response.status_code, response.headers["Content-Type"]) == (200, media_type)
    assert "immutable" in response.headers["Cache-Control"]


async def test_a_client_that_has_the_file_gets_304(static: AsyncClient) -> None:
    etag = (await static.get(f"/static/{SITE}")).headers["ETag"]

    response = await static.get(f"/static/{SITE}", headers={"If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["ETag"] == etag
    other = await static.get(f"/static/{SITE}", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


async def test_a_part_of_a_file(static: AsyncClient) -> None:
    headers = {"Range": "bytes=0-3", "Accept-Encoding": "identity"}

    response = await static.get(f"/static/{SITE}", headers=headers)

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

    assert response.headers["Cache-Control"] == "no-store"


async def test_files_are_only_read(static: AsyncClient) -> None:
    response = await static.post(f"/static/{SITE}")

    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")


@pytest.fixture
def unpublished(source: Path) -> FastAPI:
    return application(None, source)


async def test_without_a_directory_clients_ask_again_each_time(
    unpublished: FastAPI, source: Path
) -> None:
    url = static_url("css/site.css")
    async with AsyncClient(transport=ASGITransport(unpublished), base_url="http://test") as client:
        first = await client.get(url)
        await asyncio.to_thread((source / "css" / "site.css").write_text, "body {}")
        second = await client.get(url)
        outside = await client.get("/static/link")

    assert url == "/static/css/site.css"
    assert (first.text, second.text) == (CSS, "body {}")
    assert second.headers["Cache-Control"] == "max-age=0, public"
    assert outside.status_code == 404


async def test_a_prefix_of_the_proxy_is_part_of_each_name(published: Path) -> None:
    app = FastAPI()
    await asyncio.to_thread(mount, app, published, root_path="/shop")
    hosts = Hosts(app, allowed=(), root_path="/shop")
    async with AsyncClient(transport=ASGITransport(hosts), base_url="http://test") as client:
        # As the proxy sends it.
        response = await client.get(f"/static/{SITE}")

    assert static_url("css/site.css") == f"/shop/static/{SITE}"
    assert response.text == CSS


def test_a_directory_that_was_not_published_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"STATIC_DIRECTORY: .* was not written by"):
        mount(FastAPI(), tmp_path)


def test_copies_have_hashed_names_and_a_manifest(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "cdn" / "static"

    count = publish(out, source)

    files = contents(out)
    names = json.loads(files.pop("staticfiles.json"))["paths"]
    assert count == 4
    assert set(names) == {"css/site.css", "LICENSE", "an image.webp", "bundle.tar.gz"}
    assert set(names.values()) == set(files)
    assert names["css/site.css"] == SITE
    assert files[SITE] == CSS


def test_copies_of_earlier_releases_stay(source: Path, published: Path) -> None:
    first = contents(published)
    publish(published, source)
    assert contents(published) == first

    (source / "css" / "site.css").write_text("body {}")
    (published / "index.html").write_text("of somebody else")
    publish(published, source)

    second = contents(published)
    assert second.keys() > first.keys() | {"index.html"}
    assert json.loads(second["staticfiles.json"])["paths"]["css/site.css"] != SITE


def test_the_originals_are_left_alone(source: Path) -> None:
    for directory in (source, source / "new"):
        with pytest.raises(OSError, match="is within"):
            publish(directory, source)


def test_an_interrupted_copy_is_completed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "cdn"
    out.mkdir()
    blocker = out / "LICENSE.aa2d6e4f578e"
    blocker.mkdir()
    with pytest.raises(OSError, match="LICENSE"):
        publish(out, source)
    assert not (out / "staticfiles.json").exists()
    blocker.rmdir()

    publish(out, source)

    assert set(json.loads((out / "staticfiles.json").read_text())["paths"].values()) < set(
        contents(out)
    )
    assert list(out.rglob("*.part")) == []


def test_the_command_needs_no_settings(tmp_path: Path) -> None:
    out = tmp_path / "cdn"

    process = run("static", str(out), DATABASE_URL="")

    assert (process.returncode, process.stderr) == (0, "")
    assert f"static files in {out}" in process.stdout
    assert os.listdir(out) == ["staticfiles.json"]
    (tmp_path / "file").touch()
    assert run("static", str(tmp_path / "file")).returncode == 1
    assert run("static").returncode == 2


def test_check_says_that_names_are_plain(published: Path) -> None:
    assert "note: STATIC_DIRECTORY is not set" in run("check").stdout
    assert "STATIC_DIRECTORY" not in run("check", STATIC_DIRECTORY=str(published)).stdout
