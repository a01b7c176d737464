"""Checks of the addresses of servers, for every scheme."""

import re
from urllib.parse import unquote

_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")
ESCAPES = "in a password write @ as %40, # as %23 and % as %25"


def is_well_escaped(url: str) -> bool:
    """Return whether there are no blanks and control characters, and all escapes are UTF-8 text."""
    try:
        decoded = unquote(url, errors="strict")
    except UnicodeDecodeError:
        return False
    return decoded.isprintable() and " " not in url and not _BROKEN.search(url)
