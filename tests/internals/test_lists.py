"""Lists in variables: `a,b` and JSON, from files as well, and in the team's own fields."""

from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, create_model

from app.core.settings import ConfigurationError, CoreSettings, load


class Point(BaseModel):
    x: int


CASES: list[tuple[Any, str, object]] = [
    (list[str], "a,b", ["a", "b"]),
    (list[str], " a , b ,,", ["a", "b"]),
    (list[str], '["a", "b,c"]', ["a", "b,c"]),
    (list[str], "[]", []),
    (list[str], "[::1]", ["[::1]"]),
    (list[str], "[::1], a", ["[::1]", "a"]),
    (list[str], "a", ["a"]),
    (list[int], "1,2", [1, 2]),
    (list[int] | None, "1", [1]),
    (set[str], "a,a", {"a"}),
    (frozenset[str], "a", frozenset({"a"})),
    (tuple[int, ...], "1, 2", (1, 2)),
    (tuple[str, int], "a,1", ("a", 1)),
    (Sequence[str], "a,b", ["a", "b"]),
    (list[IPv4Network], "10.0.0.0/8", [IPv4Network("10.0.0.0/8")]),
    (list[Point], '[{"x": 1}]', [Point(x=1)]),
    (dict[str, list[int]], '{"a": [1]}', {"a": [1]}),
    (Point, '{"x": 1}', Point(x=1)),
    (str, "[a", "[a"),
    (str, "a,b", "a,b"),
]


def settings_of(annotation: Any) -> type[CoreSettings]:
    """Settings as a team writes them."""
    return create_model("Settings", __base__=CoreSettings, parts=(annotation, ...))


@pytest.mark.parametrize(("annotation", "text", "expected"), CASES)
def test_a_list_may_have_commas_or_be_json(
    annotation: Any, text: str, expected: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_of(annotation)
    monkeypatch.setenv("PARTS", text)
    assert (
        load(settings).model_dump()["parts"]
        == settings.model_validate({"parts": expected}).model_dump()["parts"]
    )

    monkeypatch.delenv("PARTS")
    (tmp_path / "parts").write_text(f"{text}\n")
    monkeypatch.setenv("PARTS_FILE", str(tmp_path / "parts"))
    assert (
        load(settings).model_dump()["parts"]
        == settings.model_validate({"parts": expected}).model_dump()["parts"]
    )


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (list[int], "1,hunter2", "PARTS: item 2: Input should be a valid integer"),
        (list[str], "[", "PARTS: expected `a,b` or a list in JSON"),
        (list[str], '["a"', "PARTS: expected `a,b` or a list in JSON"),
        (list[str], "{}", "PARTS: Input should be a valid list"),
        (list[SecretStr], '["hunter2", 1]', "PARTS: item 2: Input should be a valid string"),
        (tuple[int, int], "1", "PARTS: item 2: Field required"),
        (dict[str, int], "a", "PARTS: Input should be a valid dictionary"),
        (dict[str, int], "{hunter2", "PARTS: expected valid JSON"),
        (int, "1,2", "PARTS: Input should be a valid integer"),
    ],
)
def test_a_wrong_list_is_named_without_its_value(
    annotation: Any, text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTS", text)

    with pytest.raises(ConfigurationError, match=expected) as caught:
        load(settings_of(annotation))

    assert "hunter2" not in str(caught.value)
