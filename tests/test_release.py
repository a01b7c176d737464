"""`nox -s release`: the version that each change requires, the refusals, and the text of CHANGELOG.md."""

import re
import subprocess
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from packaging.version import Version

from releases.changelog import Trial, declared, effect, parts, ratios, released, unreleased
from releases.compare import Pair, compare, fitting
from releases.facts import ANSWERS_FILE, facts
from releases.migrations import Migration, handed_over, migrated, migrations, moved
from releases.prepare import run
from releases.refusals import Plan, refusals
from releases.rules import RULES, Change, Level, bump, parse_asked
from tests.quick_copier import COPIER
from tests.rendering import ROOT, commit, git, snapshot
from tests.selection import thorough

MAJOR, MINOR, PATCH = Level.MAJOR, Level.MINOR, Level.PATCH
Edit = Callable[[dict[str, Any], dict[str, str]], object]

# --- The rules, row by row: a small version, what is edited in it, and the change that services see ---

CONFIG = """
cache:
  type: str
  default: redis
  choices: {Redis: redis, Memory: memory}
cores:
  type: int
  default: 1
  validator: "{% if cores > 64 %}At most 64.{% endif %}"
planned:
  type: int
  when: false
  default: "{{ cores }}"
_min_copier_version: 9.19.0
_seam: [/pyproject.toml, /app/main.py]
_skip_if_exists: [/app/api.py]
_exclude:
  - "{% if _copier_operation == 'update' %}/README.md{% endif %}"
"""
TEXTS = {
    ANSWERS_FILE: "_commit: v1.0.0\n",
    "README.md": "Yours\n",
    "pyproject.toml": '[project]\nrequires-python = ">=3.11"\ndependencies = ["fastapi[all]>=0.1"]\n'
    + 2 * "  # Add your own below this line.\n",
    "app/main.py": "from app.core.engine import start\n",
    "app/api.py": "",
    "app/core/__init__.py": "",
    "app/core/engine.py": """\
from os import path

__all__ = ["Session", "policy", "stop"]


def start(port, debug=False): ...


class Base:
    def commit(self): ...


class Session(Base):
    size: int = 1

    def run(self, query): ...

    def _inner(self): ...


class Policy:
    def __call__(self, function): ...


policy = Policy()
stop = 1
spare = 2
""",
    "tests/core/plugin.py": "import pytest\n\n\n@pytest.fixture\ndef client(): ...\n",
    "docs/configuration.md": "| `HOST` | `127.0.0.1` | Address. |\n| `PORT` | `8000` | Port. |\n",
}
ANSWERS = {"cache": "redis", "cores": 2}


def drop(path: str) -> Edit:
    return lambda config, texts: texts.pop(path)


def write(path: str, text: str) -> Edit:
    return lambda config, texts: texts.update({path: text})


def substitute(path: str, old: str, new: str) -> Edit:
    return lambda config, texts: texts.update({path: texts[path].replace(old, new)})


def ask(question: str, **settings: Any) -> Edit:
    return lambda config, texts: config.setdefault(question, {}).update(settings)


def configure(key: str, value: Any) -> Edit:
    return lambda config, texts: config.update({key: value})


def hook(script: str, *words: str) -> Edit:
    command = ["{{ _copier_python }}", f"{{{{ _copier_conf.src_path }}}}/hooks/{script}", *words]
    return configure("_migrations", [{"version": "v2.0.0", "command": command}])


def both(*edits: Edit) -> Edit:
    return lambda config, texts: [edit(config, texts) for edit in edits]


EXCLUDE_UPDATE = "{% if _copier_operation == 'update' %}/README.md{% endif %}"
ROWS: list[tuple[Edit, Level, str, str]] = [
    (ask("new", default=1), MINOR, "question added", "new"),
    (ask("new", type="str"), MAJOR, "question without a default", "new"),
    (lambda config, texts: config.pop("cores"), MAJOR, "question gone", "cores"),
    (ask("cores", when=False), MAJOR, "question gone", "cores"),
    (ask("cores", type="float"), MAJOR, "question of another type", "cores"),
    (ask("cores", validator="{% if cores > 32 %}No.{% endif %}"), MAJOR, "question stricter", "cores"),
    (ask("cores", validator="{% if cores > 99 %}No.{% endif %}"), MINOR, "question validated otherwise", "cores"),
    (ask("cores", default=2), MINOR, "question with another default", "cores"),
    (ask("cores", ask=False), MINOR, "question asked otherwise", "cores"),
    (ask("cores", when="{{ cache == 'redis' }}"), MINOR, "question asked otherwise", "cores"),
    (ask("cache", choices=["redis", "memory", "none"]), MINOR, "choice added", "cache"),
    (ask("cache", choices=["redis"]), MAJOR, "choice gone", "cache"),
    (write("app/core/new.py", ""), MINOR, "path added", "app/core/new.py"),
    (drop("app/core/engine.py"), MAJOR, "path gone", "app/core/engine.py"),
    (drop("app/api.py"), MAJOR, "path gone", "app/api.py"),
    (drop("README.md"), MINOR, "path of the team's gone", "README.md"),
    (
        both(
            drop("app/core/engine.py"),
            configure("_exclude", [EXCLUDE_UPDATE, EXCLUDE_UPDATE.replace("README.md", "app/core/engine.py")]),
        ),
        MAJOR,
        "path handed over",
        "app/core/engine.py",
    ),
    (
        both(drop("app/core/engine.py"), hook("hand_over.py", "app/core/engine.py")),
        MAJOR,
        "path handed over",
        "app/core/engine.py",
    ),
    (
        both(drop("app/core/engine.py"), write("app/new/engine.py", ""), hook("merge_moved.py", "app/core", "app/new")),
        MAJOR,
        "path moved",
        "app/core/engine.py",
    ),
    (
        both(
            lambda config, texts: config.update(kv=config.pop("cache")),
            hook("edit_answers.py", "rename", "cache", "kv"),
        ),
        MAJOR,
        "question renamed",
        "cache",
    ),
    (
        both(ask("cache", choices=["valkey", "memory"]), hook("edit_answers.py", "value", "cache", "redis", "valkey")),
        MAJOR,
        "choice renamed",
        "cache",
    ),
    (configure("_skip_if_exists", ["/app/api.py", "/app/main.py"]), MAJOR, "path given to the team", "app/main.py"),
    (
        configure("_exclude", [EXCLUDE_UPDATE, EXCLUDE_UPDATE.replace("README.md", "app/api.py")]),
        MAJOR,
        "path given to the team",
        "app/api.py",
    ),
    (configure("_exclude", []), MAJOR, "path taken from the team", "README.md"),
    (configure("_seam", ["/pyproject.toml"]), MINOR, "path of another class", "app/main.py"),
    (
        both(configure("_exclude", []), configure("_skip_if_exists", ["/app/api.py", "/README.md"])),
        MINOR,
        "path of another class",
        "README.md",
    ),
    (substitute("app/core/engine.py", "stop = 1", "stop = 2"), PATCH, "content", "1"),
    (
        write("app/main.py", TEXTS["app/main.py"] + "# Add your own below this line\n"),
        MINOR,
        "anchor added",
        "app/main.py, # Add your own below this line",
    ),
    (
        write("pyproject.toml", TEXTS["pyproject.toml"].replace("  # Add your own below this line.\n", "", 1)),
        MAJOR,
        "anchor gone",
        "pyproject.toml, # Add your own below this line. (2)",
    ),
    (
        write("docs/configuration.md", TEXTS["docs/configuration.md"] + "| `NEW` | `1` | . |\n"),
        MINOR,
        "variable added",
        "NEW",
    ),
    (
        write("docs/configuration.md", TEXTS["docs/configuration.md"] + "| `NEW` | required | . |\n"),
        MAJOR,
        "variable required",
        "NEW",
    ),
    (substitute("docs/configuration.md", "`8000`", "required"), MAJOR, "variable required", "PORT"),
    (substitute("docs/configuration.md", "8000", "80"), MINOR, "variable with another default", "PORT"),
    (substitute("docs/configuration.md", "`PORT`", "PORT"), MAJOR, "variable gone", "PORT"),
    (
        substitute("app/core/engine.py", '["Session", ', '["Session", "spare", '),
        MINOR,
        "name added",
        "app.core.engine:spare",
    ),
    (substitute("app/core/engine.py", "stop = 1", ""), MAJOR, "name gone", "app.core.engine:stop"),
    (substitute("app/core/engine.py", "def start", "def begin"), MAJOR, "name gone", "app.core.engine:start"),
    (substitute("tests/core/plugin.py", "client", "caller"), MAJOR, "name gone", "tests.core.plugin:client"),
    (substitute("app/core/engine.py", "(port", "(number"), MAJOR, "signature broken", "app.core.engine.start"),
    (substitute("app/core/engine.py", "(port", "(port, host"), MAJOR, "signature broken", "app.core.engine.start"),
    (substitute("app/core/engine.py", "def run", "def do"), MAJOR, "signature broken", "app.core.engine.Session.run"),
    (substitute("app/core/engine.py", "size", "length"), MAJOR, "signature broken", "app.core.engine.Session.size"),
    (substitute("app/core/engine.py", "function", "f"), MAJOR, "signature broken", "app.core.engine.Policy.__call__"),
    (substitute("app/core/engine.py", "commit", "end"), MAJOR, "signature broken", "app.core.engine.Base.commit"),
    (
        substitute("app/core/engine.py", "False", "True"),
        MINOR,
        "parameter with another default",
        "app.core.engine.start",
    ),
    (substitute("pyproject.toml", '["fastapi[all]>=0.1"]', "[]"), MAJOR, "dependency gone", "fastapi"),
    (substitute("pyproject.toml", ">=0.1", ">=0.2"), MINOR, "dependency with another range", "fastapi"),
    (substitute("pyproject.toml", '0.1"]', '0.1", "orjson"]'), MINOR, "dependency added", "orjson"),
    (substitute("pyproject.toml", "3.11", "3.12"), MAJOR, "Python required", ">=3.12"),
    (configure("_min_copier_version", "9.20.0"), MINOR, "Copier required", "9.20.0"),
]


def changed(edit: Edit, answers: Mapping[str, Any] = ANSWERS) -> list[Change]:
    older: dict[str, Any] = yaml.safe_load(CONFIG)
    newer: dict[str, Any] = yaml.safe_load(CONFIG)
    texts = dict(TEXTS)
    edit(newer, texts)
    crossed = migrations(newer)
    wanted = migrated(answers, crossed)
    row = fitting(wanted, newer)
    pair = Pair(answers, facts(TEXTS, older, answers), facts(texts, newer, row), accepted=row == wanted)
    return compare(older, newer, [pair], [], crossed)


@pytest.mark.parametrize(
    ("edit", "level", "kind", "subject"), ROWS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_change_asks_for_its_part_of_the_version(edit: Edit, level: Level, kind: str, subject: str) -> None:
    changes = changed(edit)
    found = next(change for change in changes if change.kind == kind)
    assert found.subject == subject
    assert found.rule.level == level == changes[0].rule.level
    assert not re.search(r"[{}]", found.text)


# Found in CHANGELOG.md, and by the trial of an update.
DECLARED = ["declared added", "declared breaking", "work broken"]


def test_every_rule_has_a_row_and_is_explained() -> None:
    assert sorted({kind for _, _, kind, _ in ROWS} | set(DECLARED)) == sorted(RULES)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (major|minor|patch) \| (.+) \|$", text, re.MULTILINE))
    explained = {kind: level for level, kinds in table.items() for kind in kinds.split("; ")}
    assert explained == {kind: rule.level.name.lower() for kind, rule in RULES.items()}


@pytest.mark.parametrize(
    "edit",
    [
        lambda config, texts: None,
        # Derived, internal, or a name that was never promised.
        ask("planned", default="{{ cores + 1 }}"),
        ask("cache", choices={"Fast": "redis", "Slow": "memory"}, help="Other words"),
        write("pyproject.toml", TEXTS["pyproject.toml"]),
    ],
)
def test_what_services_do_not_see_is_no_change(edit: Edit) -> None:
    assert changed(edit) == []
    for internal in ("spare = 2", "    def _inner(self): ...\n"):
        assert {change.kind for change in changed(substitute("app/core/engine.py", internal, ""))} == {"content"}


def test_of_an_answer_that_no_longer_exists_only_what_is_gone_for_all_counts() -> None:
    edit = both(ask("cache", choices=["redis"]), substitute("docs/configuration.md", "8000", "80"), drop("app/main.py"))
    kinds = [change.kind for change in changed(edit, {"cache": "memory", "cores": 2})]
    assert kinds == ["choice gone", "path gone"]


def test_a_path_that_an_older_answer_leaves_out_stays_with_the_service() -> None:
    # Copier renders the newer `_exclude` with the older answers, and so never sees such a file go.
    off = "{% if cache is defined and cache == 'redis' %}/app/core/engine.py{% endif %}"
    changes = changed(both(drop("app/core/engine.py"), configure("_exclude", [EXCLUDE_UPDATE, off])))
    assert Change("path handed over", "app/core/engine.py") in changes
    unknown = "{% if new is defined and new == 'off' %}/app/core/engine.py{% endif %}"
    changes = changed(
        both(drop("app/core/engine.py"), ask("new", default="off"), configure("_exclude", [EXCLUDE_UPDATE, unknown]))
    )
    assert Change("path gone", "app/core/engine.py", "NEW") in changes


# --- Numbers ---


@pytest.mark.parametrize(
    ("last", "level", "expected"),
    [
        ("1.2.3", PATCH, "1.2.4"),
        ("1.2.3", MINOR, "1.3.0"),
        ("1.2.3", MAJOR, "2.0.0"),
        ("0.2.3", PATCH, "0.2.4"),
        ("0.2.3", MINOR, "0.3.0"),
        ("0.2.3", MAJOR, "0.3.0"),
        ("1.2", PATCH, "1.2.1"),
    ],
)
def test_a_level_moves_its_part(last: str, level: Level, expected: str) -> None:
    assert bump(Version(last), level) == Version(expected)


@pytest.mark.parametrize(
    ("text", "last", "expected"),
    [
        ("1.2.0", None, "1.2.0"),
        ("v1.2.0", "1.1.0", "1.2.0"),
        ("1.2.0rc1", "1.1.0", "1.2.0rc1"),
        ("minor", "1.1.4", "1.2.0"),
        ("patch", "1.1.4", "1.1.5"),
        ("major", "0.4.0", "1.0.0"),
        ("major", "1.4.0", "2.0.0"),
    ],
)
def test_a_version_is_asked_for_by_its_number_or_its_part(text: str, last: str | None, expected: str) -> None:
    assert parse_asked(text, Version(last) if last else None) == Version(expected)


@pytest.mark.parametrize("text", ["1.2", "1.2.0.dev1", "1.2.0+local", "1.2.0.post1", "next", "2!1.0.0", "1.2.0\n"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no version: write 1\.2\.0"):
        parse_asked(text, Version("1.0.0"))


def test_a_part_of_no_version_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no version yet"):
        parse_asked("minor", None)


# --- Hooks ---


@pytest.mark.parametrize(
    "command",
    [
        "{{ _copier_python }} {{ _copier_conf.src_path }}/hooks/merge_moved.py a b c/d.py e.py",
        [
            "{{ _copier_python }}",
            "{{ _copier_conf.src_path }}/hooks/merge_moved.py",
            "--answers-file",
            "{{ _copier_conf.answers_file }}",
            "a",
            "b",
            "c/d.py",
            "e.py",
        ],
        "python hooks/merge_moved.py '--answers-file={{ _copier_conf.answers_file }}' a b c/d.py e.py",
    ],
)
def test_a_move_is_read_from_either_form_of_a_command(command: str | list[str]) -> None:
    entries = migrations({"_migrations": [{"version": "v2.0.0", "command": command}]})
    assert entries[0].version == Version("2.0.0")
    assert [moved(path, entries) for path in ("a", "a/x.py", "ab", "c/d.py", "c/d.pyi", "b")] == [
        "b",
        "b/x.py",
        "",
        "e.py",
        "",
        "",
    ]
    assert not handed_over("a", entries)


def test_answers_are_edited_in_order() -> None:
    command = "python hooks/edit_answers.py rename cache kv value kv redis valkey value on true false"
    entries = migrations({"_migrations": [{"version": "2.0.0", "command": command.replace("true", "True")}]})
    assert migrated({"cache": "redis", "on": True, "n": 1}, entries) == {"kv": "valkey", "on": False, "n": 1}
    assert migrated({}, entries) == {}


def test_a_hook_hands_over_a_path_and_what_is_below() -> None:
    entries = [Migration(Version("2.0.0"), ("python", "hooks/hand_over.py", "a/b", "c.py"))]
    assert [handed_over(path, entries) for path in ("a/b/x.py", "a/b", "c.py", "a/c.py")] == [True, True, True, False]


# --- Refusals ---

LOG = "# Changelog\n\n## Unreleased\n\nNews.\n\n## 1.0.0 - 2026-01-01\n\nFirst.\n"
READY = Plan(
    asked=Version("2.0.0"),
    last=Version("1.0.0"),
    tagged={Version("1.0.0"): "v1.0.0"},
    dirty=[],
    changelog=LOG,
    migrations=[Migration(Version("2.0.0"), ("a",)), Migration(Version("1.0.0"), ("b",))],
    changes=[Change("variable gone", "PORT"), Change("name gone", "x"), Change("content", "1")],
    trials=[Trial("defaults", 3, conflicts=("a.py",))],
)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (READY, None),
        (replace(READY, asked=Version("2.0.0rc1"), migrations=[]), None),
        (replace(READY, asked=None), None),
        (replace(READY, dirty=["a.py"]), "there is uncommitted work (a.py): commit or stash it"),
        (
            replace(READY, changelog=LOG.replace("News.\n\n", "")),
            'CHANGELOG.md has no text under "## Unreleased": describe the changes for services there',
        ),
        (
            replace(READY, changelog=LOG.replace("1.0.0 -", "1.1.0 -")),
            "CHANGELOG.md has a section 1.1.0 without a tag: run `git fetch --tags`, or tag the version",
        ),
        (
            replace(READY, changes=[Change("path gone", "app/a.py", "NEW")]),
            "app/a.py is gone, and updates would delete it, edited or not: add a `_migrations` entry of this version "
            "that runs hooks/merge_moved.py app/a.py NEW or hooks/hand_over.py app/a.py, or list it in `_exclude` for "
            "updates",
        ),
        (
            replace(READY, changes=[Change("question gone", "q")]),
            "the question q is gone: add a `_migrations` entry of this version that runs hooks/edit_answers.py rename "
            "q NEW, or explain under `### Breaking` in CHANGELOG.md why `q` is gone",
        ),
        (
            replace(
                READY, changes=[Change("question gone", "q")], changelog=LOG.replace("News", "### Breaking\n\n`q`")
            ),
            None,
        ),
        (
            replace(READY, changes=[Change("choice gone", "q", "a")]),
            "the choice a of q is gone, and updates would take the default: add a `_migrations` entry of this version "
            "that runs hooks/edit_answers.py value q a NEW",
        ),
        (
            replace(READY, migrations=[Migration(Version("3.0.0"), ("a", "b"))]),
            "the `_migrations` entry `a b` names 3.0.0, neither released nor 2.0.0: give the entry the right version",
        ),
        (
            replace(READY, migrations=[Migration(None, ("a", "b"))]),
            "the `_migrations` entry `a b` has no version, so all updates would need --trust: give the entry a version",
        ),
        (
            replace(READY, tagged={Version("1.0.0"): "v1.0.0", Version("2.0.0"): "2.0.0"}),
            "2.0.0 is not newer than the tag v2.0.0: ask for a newer version",
        ),
        (
            replace(READY, tagged={Version("1.0.0"): "v1.0.0", Version("2.0.1rc1"): "v2.0.1rc1"}),
            "2.0.0 is not newer than the tag v2.0.1rc1: ask for a newer version",
        ),
        (
            replace(READY, asked=Version("1.1.0"), migrations=[]),
            "1.1.0 is too small, 2.0.0 is needed: Variable `PORT` is gone (and 1 more)",
        ),
        (
            replace(READY, trials=[Trial("minimum", 3, lost=("a.py", "b.py"))]),
            "an update of variant minimum from 1.0.0 loses a team's lines in a.py, b.py: keep them with a hook",
        ),
        (
            replace(READY, trials=[Trial("minimum", 3, answers=("q",))]),
            "an update of variant minimum from 1.0.0 loses the answer to q: use hooks/edit_answers.py",
        ),
        (
            replace(READY, trials=[Trial("minimum", error="it broke")]),
            "variant minimum cannot be updated from 1.0.0: it broke",
        ),
    ],
)
def test_a_refusal_names_what_is_wrong_and_what_to_do(plan: Plan, expected: str | None) -> None:
    assert list(refusals(plan)) == ([expected] if expected else [])


# --- CHANGELOG.md ---


def test_unreleased_becomes_a_section() -> None:
    assert unreleased(LOG) == "News."
    assert released(LOG, Version("1.1.0"), "2026-02-01", "### Update\n\n- Fine.") == textwrap.dedent("""\
        # Changelog

        ## Unreleased

        ## 1.1.0 - 2026-02-01

        News.

        ### Update

        - Fine.

        ## 1.0.0 - 2026-01-01

        First.
        """)


def test_a_changelog_says_what_only_its_author_knows() -> None:
    assert declared(LOG) == {}
    assert list(declared(LOG.replace("News.", "News.\n\n### Breaking\n\nA guard.\n\n### Added\n\nX"))) == [
        "breaking",
        "added",
    ]


def test_a_section_lists_what_changed_and_what_an_update_comes_to() -> None:
    changes = [Change("question added", "q", "1"), Change("path gone", "a.py"), Change("content", "9")]
    trials = [Trial("a", 1000, ("x.py",), ("a.py",)), Trial("b", 500, ("x.py", "y.py"))]
    text = parts(Version("1.0.0"), changes, 2, trials, "Effect on performance: not measured.")
    assert text.splitlines() == [
        *("### Questions", "", "- `q` is new; its default is `1`.", ""),
        *("### Files", "", "- Removed: `a.py`.", ""),
        *("### Update", ""),
        "- `copier update` from 1.0.0 needs `--trust`, for its entries in `_migrations`: 2.",
        "- Variants updated from 1.0.0: 2, with a line of a team in each of their 1,500 files. Conflicts: 3 (`x.py`, "
        "`y.py`).",
        "  Deleted files: 1 (`a.py`). Lost lines: 0.",
        "- Effect on performance: not measured.",
    ]
    assert "- `copier update` from 1.0.0 needs no `--trust`." in parts(Version("1.0.0"), [], 0, trials, "")


def test_the_effect_on_performance_is_a_ratio_of_one_run_before_and_after() -> None:
    results = (ROOT / "docs/performance/results.md").read_text(encoding="utf-8")
    found = ratios(results)
    assert len(found) > 5
    assert all(0 < ratio < 10 for ratio in found.values())
    header = "## The whole picture\n\n| scenario | clients | plain | rendered |\n| --- | --- | --- | --- |\n"
    table = header + "| user | 40 | 1,000 (2x) | {} |\n"
    before, after = table.format("900 ʷ (1x)"), table.format("1,100 (3x)")
    assert effect(before, after).endswith("by hand: user 0.90 to 1.10.")
    for older, newer in ((before, before), ("", after), (before, table.format("-"))):
        assert effect(older, newer) == "Effect on performance: not measured."


# --- Whole runs, on a small template with a history of its own ---

SMALL = {
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\nThe first.\n",
    "copier.yml": """\
cache:
  type: str
  default: redis
  choices: [redis, none]
_subdirectory: template
_exclude:
  - "{% if cache is defined and cache == 'none' %}/app/cache.py{% endif %}"
""",
    "template/app/cache.py": "def get(): ...\n",
    "template/app/core.py": "a = 1\n\n\nb = 2\n",
    "template/{{ _copier_conf.answers_file }}.jinja": "{{ _copier_answers | to_nice_yaml }}",
    "tests/variants.py": 'DEFAULTS = {"cache": "redis"}\nVARIANTS = {"defaults": {}, "minimum": {"cache": "none"}}\n',
}


ONE_VARIANT = 'DEFAULTS = {"cache": "redis"}\nVARIANTS = {"defaults": {}}\n'


class Release:
    """A repository of the template, and the output of the last run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said = ""

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8", newline="\n")

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def commit(self, news: str = "") -> None:
        if news:
            self.write(
                "CHANGELOG.md", self.read("CHANGELOG.md").replace("## Unreleased\n", f"## Unreleased\n\n{news}\n", 1)
            )
        commit(self.root)

    def run(self, version: str | None = None) -> int:
        said: list[str] = []
        before = git(self.root, "tag", "--list")
        code = run(self.root, version, said.append)
        self.said = "\n".join(said)
        assert git(self.root, "tag", "--list") == before
        return code

    @property
    def changed(self) -> str:
        return git(self.root, "status", "--porcelain").strip()


@pytest.fixture
def small(tmp_path: Path) -> Release:
    """A template with a first version."""
    release = Release(tmp_path / "small")
    for path, text in SMALL.items():
        release.write(path, text)
    release.commit()
    assert release.run("1.0.0") == 0
    release.commit()
    git(release.root, "tag", "v1.0.0")
    return release


def test_the_first_version_is_free(tmp_path: Path) -> None:
    release = Release(tmp_path)
    for path, text in SMALL.items():
        release.write(path, text)
    release.commit()
    assert release.run() == 0
    assert release.said == "There is no tag of a version yet: the first version may have any number."
    assert release.run("0.1.0") == 0
    assert release.changed == "M CHANGELOG.md"
    section = r"## Unreleased\n\n## 0\.1\.0 - \d{4}-\d\d-\d\d\n\nThe first\.\n\n### Update\n\nThe first version: .+\n"
    assert re.fullmatch(rf"# Changelog\n\n{section}", release.read("CHANGELOG.md"))
    assert "git tag --annotate v0.1.0 --message 0.1.0\n  git push origin HEAD v0.1.0" in release.said
    assert release.said.index("nox -s thorough") < release.said.index("git tag")


def test_a_look_changes_nothing_and_counts_uncommitted_work(small: Release) -> None:
    small.write("template/app/new.py", "")
    (small.root / "template/app/core.py").unlink()
    before = small.changed
    assert small.run() == 0
    assert small.changed == before
    assert "  major  Removed: `app/core.py`.\n  minor  Added: `app/new.py`.\n" in small.said
    assert "The smallest version is 2.0.0 (major)" in small.said
    assert "To do: app/core.py is gone" in small.said
    assert "To do: CHANGELOG.md has no text" in small.said


def test_a_version_is_prepared_and_not_tagged(small: Release) -> None:
    small.write("template/app/core.py", "a = 1\n\n\nb = 3\n")
    small.write("template/app/new.py", "c = 1\n")
    small.commit("News.")
    assert small.run("1.0.1") == 1
    assert small.said == "Refused: 1.0.1 is too small, 1.1.0 is needed: Added: `app/new.py`."
    assert small.changed == ""
    assert small.run("1.1.0rc1") == 0
    assert "nox -s thorough" in small.said
    assert small.changed == ""
    assert small.run("minor") == 0
    assert small.changed == "M CHANGELOG.md"
    text = small.read("CHANGELOG.md")
    assert (
        "\n\nNews.\n\n### Files\n\n- Added: `app/new.py`.\n\n### Update\n\n- `copier update` from 1.0.0 needs no"
        in text
    )
    # Of two services one has app/cache.py; a line at the end of app/core.py meets its last one, which changed.
    tried = "each of their 3 files. Conflicts: 2 (`app/core.py`). Deleted files: 0. Lost lines: 0."
    assert tried in " ".join(text.split())
    assert text.count("## 1.0.0") == 1
    assert small.run("1.2.0") == 1
    assert "Refused: there is uncommitted work (CHANGELOG.md)" in small.said
    small.commit("More.")
    assert small.run("1.2.0") == 1
    assert "CHANGELOG.md has a section 1.1.0 without a tag: run `git fetch --tags`" in small.said


def test_a_file_that_goes_needs_a_hook_and_the_hook_is_tried(small: Release) -> None:
    (small.root / "template/app/cache.py").unlink()
    small.commit("No cache.")
    assert small.run("2.0.0") == 1
    assert re.fullmatch(r"Refused: app/cache.py is gone, .* hooks/hand_over.py app/cache.py, .*", small.said)

    entry = """\
_migrations:
  - version: v2.0.0
    command: ["{{ _copier_python }}", "{{ _copier_conf.src_path }}/hooks/hand_over.py", app/cache.py]
"""
    small.write("copier.yml", small.read("copier.yml") + entry)
    small.write("hooks/hand_over.py", "raise SystemExit(1)")
    small.commit()
    assert small.run("2.0.0") == 1
    assert "Refused: variant defaults cannot be updated from 1.0.0: " in small.said
    small.write("hooks/hand_over.py", "")
    small.commit()
    assert small.run("2.0.0") == 1
    assert small.said == (
        "Refused: an update of variant defaults from 1.0.0 loses a team's lines in app/cache.py: keep them with a hook."
    )
    small.write("hooks/hand_over.py", "import subprocess\nsubprocess.run('git checkout HEAD app/cache.py'.split())\n")
    small.commit()
    assert small.run("2.0.0") == 0
    text = small.read("CHANGELOG.md")
    assert "- No longer rendered: `app/cache.py` stays in services, and is the team's." in text
    assert "needs `--trust`, for its entries in `_migrations`: 1." in text
    assert "Conflicts: 0. Deleted files: 0. Lost lines: 0." in " ".join(text.split())


PYPROJECT = '[project]\ndependencies = ["a>=1"]\n'
GROW = 'def grow(service):\n    (service / "team.py").write_text("from app.core import a\\n")\n'


def test_the_code_of_a_team_is_checked_after_the_update(small: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are stand-ins: `a>=2` does not exist, and `app.core` must have the name that the team imports."""
    before: list[str] = []

    def run_uv(service: Path, *arguments: str, **_: Any) -> subprocess.CompletedProcess[str]:
        failing = {
            "lock": ">=2" in (service / "pyproject.toml").read_text(),
            "mypy": "a = 1" not in (service / "app/core.py").read_text() and (service / "team.py").exists(),
        }
        output = next((f"{word} found it." for word in arguments if failing.get(word) or word in before), "")
        return subprocess.CompletedProcess(arguments, bool(output), output, "")

    monkeypatch.setattr("releases.trial.run_uv", run_uv)
    small.write("template/pyproject.toml", PYPROJECT)
    small.write("tests/edits.py", GROW)
    small.write("tests/variants.py", ONE_VARIANT)
    small.commit()
    git(small.root, "tag", "v1.0.1")
    small.write("CHANGELOG.md", small.read("CHANGELOG.md") + "\n## 1.0.1 - 2026-01-01\n\nMore.\n")

    small.write("template/pyproject.toml", PYPROJECT.replace(">=1", ">=2"))
    small.commit("News.")
    assert small.run("1.1.0") == 1
    assert (
        small.said == "Refused: variant defaults cannot be updated from 1.0.1: `uv lock --quiet` fails: lock found it."
    )

    small.write("template/pyproject.toml", PYPROJECT)
    small.write("template/app/core.py", "b = 2\n")
    small.commit()
    assert small.run("1.0.2") == 1
    assert small.said == (
        "Refused: 1.0.2 is too small, 2.0.0 is needed: The code of a team no longer passes the checks (variant "
        "defaults): `uv run --quiet mypy` fails: mypy found it."
    )
    assert small.run("2.0.0rc1") == 0
    before.append("mypy")
    assert small.run("2.0.0") == 1
    assert "variant defaults cannot be updated from 1.0.1: before the update, `uv run --quiet mypy` fails" in small.said


def test_an_answer_that_copier_would_replace_by_the_default_is_refused(small: Release) -> None:
    validator = "  validator: \"{% if cache == 'none' %}It has gone.{% endif %}\"\n_subdirectory"
    small.write("copier.yml", small.read("copier.yml").replace("_subdirectory", validator))
    small.write("tests/variants.py", ONE_VARIANT)
    small.commit("News.")
    assert small.run("1.1.0") == 1
    assert small.said == "Refused: 1.1.0 is too small, 2.0.0 is needed: `cache` refuses the former answer `none`."
    assert small.run("2.0.0") == 1
    assert small.said == (
        "Refused: an update of variant minimum from 1.0.0 loses the answer to cache: use hooks/edit_answers.py."
    )


def test_copier_takes_the_newest_tag_with_a_v_and_no_pre_release(small: Release, tmp_path: Path) -> None:
    entry = "_migrations:\n  - version: v1.10.0\n    command: [git, config, a.b, crossed]\n"
    for version in ("v1.9.0", "v1.10.0", "v1.11.0rc1", "nightly"):
        small.write("template/version", version)
        if version == "v1.10.0":
            small.write("copier.yml", small.read("copier.yml") + entry)
        small.commit()
        git(small.root, "tag", version)
    service = tmp_path / "service"
    copier.run_copy(str(small.root), service, defaults=True, quiet=True)
    assert (service / "version").read_text() == "v1.10.0"
    assert yaml.safe_load((service / ANSWERS_FILE).read_text())["_commit"] == "v1.10.0"
    older = tmp_path / "older"
    copier.run_copy(str(small.root), older, vcs_ref="v1.9.0", defaults=True, quiet=True)
    commit(older)
    copier.run_update(older, defaults=True, overwrite=True, quiet=True, unsafe=True)
    assert git(older, "config", "a.b").strip() == "crossed"


def test_copier_offers_the_post_releases_of_a_fork_between_the_versions_of_slipstream(
    small: Release, tmp_path: Path
) -> None:
    # As docs/platform-teams.md says. Copier never offers `v1.0.0+acme.1`: for it, this is 1.0.0.
    service = tmp_path / "service"
    copier.run_copy(str(small.root), service, defaults=True, quiet=True)
    commit(service)
    offered = []
    for tag in ("v1.0.0+acme.1", "v1.0.0.post1", "v1.0.0.post2", "v1.0.1"):
        small.write("template/version", tag)
        small.commit()
        git(small.root, "tag", tag)
        # 2 means that there is a newer version.
        if subprocess.run([*COPIER, "check-update", "--quiet"], cwd=service, check=False).returncode == 2:
            copier.run_update(service, defaults=True, overwrite=True, quiet=True)
            assert (service / "version").read_text() == tag
            assert yaml.safe_load((service / ANSWERS_FILE).read_text())["_commit"] == tag
            commit(service)
            offered.append(tag)
    assert offered == ["v1.0.0.post1", "v1.0.0.post2", "v1.0.1"]


# --- The template itself ---


@pytest.mark.parametrize("checks", thorough(["skipped", "run"], but=["skipped"]))
def test_a_version_of_the_template_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: str) -> None:
    if checks == "skipped":
        monkeypatch.setattr("releases.trial.failure", lambda *_: "")
    release = Release(snapshot(tmp_path / "template", "v1.0.0"))
    # One variant is enough here.
    one = '\nVARIANTS = {"everything": VARIANTS["everything"]}\n'
    release.write("tests/variants.py", release.read("tests/variants.py") + one)
    release.write("CHANGELOG.md", "# Changelog\n\n## Unreleased\n")
    release.commit()
    git(release.root, "tag", "--force", "v1.0.0")
    assert release.run() == 0
    assert release.said.startswith("Since v1.0.0:\nThe smallest version is 1.0.1 (patch)")

    git(release.root, "mv", "template/app/core/http/problems.py", "template/app/problems.py")
    variables = release.read("template/docs/configuration.md.jinja").replace("`LOG_LEVEL`", "`LEVEL`")
    release.write("template/docs/configuration.md.jinja", variables)
    assert release.run() == 0
    assert "  major  Removed: `app/core/http/problems.py`.\n" in release.said
    assert "  major  Variable `LOG_LEVEL` is gone.\n" in release.said
    assert "  minor  Variable `LEVEL` is new; default: `INFO`.\n" in release.said
    assert "The smallest version is 2.0.0 (major)" in release.said
    assert "hooks/merge_moved.py app/core/http/problems.py app/problems.py" in release.said

    entry = """
_migrations:
  - version: v2.0.0
    command: ["{{ _copier_python }}", "{{ _copier_conf.src_path }}/hooks/merge_moved.py", app/core/http/problems.py,
      app/problems.py]
"""
    release.write("copier.yml", release.read("copier.yml") + entry)
    release.commit("News.")
    assert release.run("2.0.0") == 0
    text = " ".join(release.read("CHANGELOG.md").split())
    assert "Moved: `app/core/http/problems.py` to `app/problems.py`; a hook merges the changes of a team in it." in text
    assert re.search(r"Variants updated from 1\.0\.0: 1, .* Conflicts: 0\. Deleted files: 0\. Lost lines: 0\.", text)
