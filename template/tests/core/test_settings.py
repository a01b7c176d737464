"""docs/configuration.md lists the variables that the service knows, with their defaults."""

import re
from pathlib import Path

from app.core.operations.settings import CoreSettings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_every_variable_is_documented() -> None:
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE))
    expected = {
        name.upper(): "empty" if field.default in ("", ()) else f"`{field.default}`"
        for name, field in CoreSettings.model_fields.items()
    }
    required = [name for name, field in CoreSettings.model_fields.items() if field.is_required()]

    assert documented == expected | {name.upper(): "required" for name in required}
