"""Thumbnails: made in a process of the pool, from bytes of clients."""

import struct
import zlib
from io import BytesIO

import pytest
from httpx2 import AsyncClient, Response
from PIL import Image

PNG = {"Content-Type": "image/png"}
EXIF_ORIENTATION = 0x0112
SCRIPT = b"<script>alert(1)</script>"


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (640, 480)) -> bytes:
    file = BytesIO()
    exif = Image.Exif()
    # The camera was turned, so the picture is 480 pixels wide.
    exif[EXIF_ORIENTATION] = 6
    Image.new(mode, size, "red").save(file, kind, exif=exif, comment=SCRIPT)
    return file.getvalue()


def bomb() -> bytes:
    """Return a PNG of a few bytes that announces 60,000 times 60,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


async def make_thumbnail(client: AsyncClient, content: bytes) -> Response:
    return await client.post("/users/thumbnails", content=content, headers=PNG)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("JPEG", "CMYK")])
async def test_a_picture_becomes_small_and_upright(
    client: AsyncClient, kind: str, mode: str
) -> None:
    response = await make_thumbnail(client, picture(kind, mode))

    assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
    thumbnail = Image.open(BytesIO(response.content))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (240, 320))
    assert not thumbnail.getexif()


async def test_other_contents_of_the_file_are_left_out(client: AsyncClient) -> None:
    both = picture("JPEG") + SCRIPT

    response = await make_thumbnail(client, both)

    assert response.status_code == 200
    assert both.count(SCRIPT) == 2
    assert SCRIPT not in response.content


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(SCRIPT, id="text"),
        pytest.param(picture("GIF"), id="another format"),
        pytest.param(picture()[:-40], id="cut off"),
        pytest.param(picture("JPEG")[:-40], id="cut off JPEG"),
        pytest.param(bomb(), id="bomb"),
        pytest.param(picture(mode="1", size=(6250, 4001)), id="too many pixels"),
    ],
)
async def test_what_is_no_whole_picture_is_refused(client: AsyncClient, content: bytes) -> None:
    response = await make_thumbnail(client, content)

    assert response.status_code == 422
    assert "at most 25 megapixels" in response.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "size", "status"),
    [
        ({"Content-Type": "text/plain"}, 1, 415),
        ({}, 1, 415),
        ({"Content-Type": "Image/PNG; q=1"}, 5 * 1024**2 + 1, 413),
    ],
)
async def test_other_bodies_are_refused_unread(
    client: AsyncClient, headers: dict[str, str], size: int, status: int
) -> None:
    response = await client.post("/users/thumbnails", content=b"x" * size, headers=headers)

    assert response.status_code == status
