"""docs/configuration.md and .env.example have the variables of the service, with their defaults."""

import re
from itertools import pairwise
from pathlib import Path

from app.core.settings import CoreSettings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_every_variable_is_documented() -> None:
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE))
    expected = {
        name.upper(): "empty" if field.default in ("", ()) else f"`{field.default}`"
        for name, field in CoreSettings.model_fields.items()
    }
    required = [name for name, field in CoreSettings.model_fields.items() if field.is_required()]

    assert documented == expected | {name.upper(): "required" for name in required}


def test_the_example_of_an_env_file_has_every_variable() -> None:
    lines = (PAGE.parents[1] / ".env.example").read_text().splitlines()
    found = {}
    for above, line in pairwise(lines):
        if match := re.fullmatch(r"((?:# )?[A-Z_]+)=(.*)", line):
            assert re.match("# [A-Z]", above), f"{line} is not explained"
            found[match[1]] = match[2]
    expected = {
        f"{'' if field.is_required() else '# '}{name.upper()}": ""
        if field.is_required() or field.default in (None, ())
        else str(field.default)
        for name, field in CoreSettings.model_fields.items()
    }

    assert {name: found.get(name) for name in expected} == expected
