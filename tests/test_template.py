"""The rules of the template itself: few tags, in plain places, and names that every system can hold."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from jinja2 import Environment, meta

from tests.rendering import ROOT

TEMPLATE = ROOT / "template"
CONFIGURATION = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS = {name for name in CONFIGURATION if not name.startswith("_")}
MOST_TAGS_PER_1000_LINES = 20
# Characters that Windows refuses in file names, and its reserved names of devices.
FORBIDDEN = re.compile(r'[<>:"\\|?*]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def files() -> Iterator[Path]:
    return (path for path in sorted(TEMPLATE.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def templates() -> Iterator[Path]:
    return (path for path in files() if path.suffix == ".jinja")


def test_templates_use_known_names_only_and_every_question_is_used() -> None:
    # Copier's own extension brings the filters. It parses here, and renders nothing.
    environment = Environment(extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"])  # noqa: S701
    used: set[str] = set()
    for path in templates():
        names = meta.find_undeclared_variables(environment.parse(path.read_text()))
        assert names <= QUESTIONS | {"_copier_answers"}, path
        used |= names
    used |= {name for name in QUESTIONS if any(f"{name} " in entry for entry in CONFIGURATION["_exclude"])}
    derived = {name for name in QUESTIONS if CONFIGURATION[name].get("when") is False}
    for name in derived - used:
        assert name in CONFIGURATION["_message_after_copy"]

    assert used - {"_copier_answers"} - derived == QUESTIONS - derived


def test_a_file_without_tags_is_not_a_template() -> None:
    assert [path.name for path in templates() if not re.search(r"\{[{%]", path.read_text())] == []


def test_tags_stand_alone_and_trim_nothing_by_hand() -> None:
    astray = []
    for path in templates():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            alone = re.fullmatch(r"\s*\{% [^%]* %\}", line)
            if "{%" in line and not alone:
                astray.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
            if "{%-" in line or "-%}" in line:
                astray.append(f"{path.relative_to(ROOT)}:{number}: trims by hand")

    assert astray == []


def test_tags_in_python_are_few_and_not_nested() -> None:
    lines = tags = 0
    nested = []
    for path in files():
        if not path.name.endswith((".py", ".py.jinja")):
            continue
        depth = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            lines += 1
            tags += line.count("{%")
            depth += len(re.findall(r"\{% if ", line)) - len(re.findall(r"\{% endif ", line))
            if depth > 1:
                nested.append(f"{path.relative_to(ROOT)}:{number}")

    print(f"{tags} tags in {lines} lines of Python: {1000 * tags / lines:.1f} per 1,000")
    assert nested == []
    assert 1000 * tags / lines <= MOST_TAGS_PER_1000_LINES


def test_names_fit_every_file_system() -> None:
    names = [path.relative_to(TEMPLATE).as_posix() for path in files()]
    # Copier's own placeholder for the answers file has a fixed, safe value.
    parts = {part for name in names for part in name.split("/") if not part.startswith("{{ _copier_conf")}

    assert [part for part in parts if FORBIDDEN.search(part)] == []
    assert len({name.lower() for name in names}) == len(names)
    assert max(len(name) for name in names) <= 120


def test_nothing_asks_for_trust() -> None:
    for key in ("_tasks", "_jinja_extensions"):
        assert key not in CONFIGURATION
    assert all("version" in migration for migration in CONFIGURATION.get("_migrations", []))


def test_the_configuration_is_readable() -> None:
    text = (ROOT / "copier.yml").read_text()
    # Each version may bring entries, and takes none away.
    lines = re.sub(r"^_migrations:\n(?:[ ].*\n)+", "", text, flags=re.MULTILINE).splitlines()
    first_setting = next(number for number, line in enumerate(lines) if line.startswith("_"))
    last_question = max(number for number, line in enumerate(lines) if re.match(r"[a-z]\w*:", line))

    assert last_question < first_setting
    assert len(lines) <= 450
