"""Thumbnails of pictures; a process of the pool imports this module and nothing else of ours."""

import warnings
from io import BytesIO

from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG")
SIZE = (320, 320)

# Checked before the pixels are decoded, four bytes each. Up to twice the limit, Pillow only warns.
Image.MAX_IMAGE_PIXELS = 25_000_000
warnings.simplefilter("error", Image.DecompressionBombWarning)


class NoPicture(ValueError):
    """The bytes are no picture that has a thumbnail."""


def make_thumbnail(picture: bytes) -> bytes:
    """Return the picture as WebP: at most 320 pixels wide and high, upright, without metadata.

    Raises NoPicture for anything but a whole PNG or JPEG of at most 25 megapixels.
    """
    try:
        with Image.open(BytesIO(picture), formats=FORMATS) as image:
            image.thumbnail(SIZE)
            upright = ImageOps.exif_transpose(image)
            thumbnail = BytesIO()
            upright.convert("RGBA").save(thumbnail, "WEBP")
    # Damaged files raise errors of many kinds.
    except Exception as error:
        raise NoPicture(
            "The body is no PNG or JPEG picture of at most 25 megapixels, or it is cut off."
        ) from error
    return thumbnail.getvalue()
