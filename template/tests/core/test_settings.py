"""docs/configuration.md and .env.example have the variables of the service, with their defaults."""

import re
from itertools import pairwise

from app.core.settings import CoreSettings
from tests.core.serving import ROOT

FIELDS = {name.upper(): field for name, field in CoreSettings.model_fields.items()}


def test_every_variable_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", page, re.MULTILINE))

    assert documented == {
        name: "required"
        if field.is_required()
        else "empty"
        if field.default in ("", ())
        else f"`{field.default}`"
        for name, field in FIELDS.items()
    }


def test_the_example_of_an_env_file_has_every_variable() -> None:
    found = {}
    for above, line in pairwise((ROOT / ".env.example").read_text().splitlines()):
        if match := re.fullmatch(r"((?:# )?[A-Z_]+)=(.*)", line):
            assert re.match("# [A-Z]", above), f"{line} is not explained"
            found[match[1]] = match[2]

    for name, field in FIELDS.items():
        if field.is_required():
            assert found.get(name) == ""
        else:
            default = "" if field.default in (None, ()) else str(field.default)
            assert found.get(f"# {name}") == default, name
