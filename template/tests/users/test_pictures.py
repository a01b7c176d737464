"""Thumbnails: made in a process of the pool, from bytes of clients."""

import struct
import zlib
from io import BytesIO

import pytest
from httpx2 import AsyncClient
from PIL import Image

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


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("JPEG", "CMYK")])
async def test_a_picture_becomes_small_and_upright_and_keeps_nothing_else(
    client: AsyncClient, kind: str, mode: str
) -> None:
    sent = picture(kind, mode) + SCRIPT
    response = await client.post(
        "/users/pictures/thumbnail", content=sent, headers={"Content-Type": "image/png"}
    )

    assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
    thumbnail = Image.open(BytesIO(response.content))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (240, 320))
    assert not thumbnail.getexif()
    assert SCRIPT not in response.content


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        pytest.param(b"", "image/png", 422, id="nothing"),
        pytest.param(SCRIPT, "image/png", 422, id="text"),
        pytest.param(picture("GIF"), "image/png", 422, id="another format"),
        pytest.param(picture()[:-40], "image/png", 422, id="cut off"),
        pytest.param(picture("JPEG")[:-40], "image/jpeg", 422, id="cut off JPEG"),
        pytest.param(bomb(), "image/png", 422, id="bomb"),
        pytest.param(picture("PNG", "1", (6250, 4001)), "image/png", 422, id="too many pixels"),
        pytest.param(b"x", "text/plain", 415, id="another type"),
        pytest.param(b"x" * (5 * 1024**2 + 1), "Image/PNG; q=1", 413, id="too large"),
    ],
)
async def test_what_is_no_whole_picture_is_refused(
    client: AsyncClient, content: bytes, kind: str, status: int
) -> None:
    response = await client.post(
        "/users/pictures/thumbnail", content=content, headers={"Content-Type": kind}
    )

    assert response.status_code == status
    if status == 422:
        assert "at most 25 megapixels" in response.json()["detail"]
