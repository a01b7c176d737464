"""Earlier versions of the template, each made by undoing one change on the present tree.

One repository has the tags v0.1.0, v0.2.0, ...; the last of them is the present tree. A version whose change needs
a hook carries a versioned migration, as a real release would, and so do all later ones.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.rendering import git
from tests.variants import DEFAULTS, Answer, Answers

TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
OLDER = "Older than the template."


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def append(path: Path, text: str) -> None:
    write(path, read(path) + text)


def substitute(path: Path, pattern: str, text: str) -> None:
    """Replace the first match of `pattern`, which must exist."""
    changed, count = re.subn(pattern, text, read(path), count=1)
    assert count, f"{pattern} is not in {path}"
    write(path, changed)


def source(template: Path, path: str) -> Path:
    """Return the file of the template that renders a path."""
    plain = template / "template" / path
    return plain if plain.exists() else plain.with_name(f"{plain.name}.jinja")


def in_tags(value: Any, replace: Callable[[str], str]) -> Any:
    """`value` with every Jinja tag in its texts replaced."""
    if isinstance(value, dict):
        return {key: in_tags(item, replace) for key, item in value.items()}
    if isinstance(value, list):
        return [in_tags(item, replace) for item in value]
    if isinstance(value, str):
        return TAG.sub(lambda tag: replace(tag[0]), value)
    return value


def rewrite(template: Path, change: Callable[[dict[str, Any]], Any], replace: Callable[[str], str]) -> None:
    """Change the questions, and all Jinja tags in them and in the files."""
    config = yaml.safe_load(read(template / "copier.yml"))
    change(config)
    configure(template, in_tags(config, replace))
    for path in (template / "template").rglob("*.jinja"):
        write(path, in_tags(read(path), replace))


def configure(template: Path, config: Mapping[str, Any]) -> None:
    write(template / "copier.yml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def forget(template: Path, answers: Answers) -> None:
    """Change the template as if these questions were never asked, and every service had these answers."""

    def change(config: dict[str, Any]) -> None:
        for question in answers:
            del config[question]

    names = re.compile(rf"\b({'|'.join(answers)})\b")
    rewrite(template, change, lambda tag: names.sub(lambda name: repr(answers[name[0]]), tag))


# --- The changes, each as its undoing ---

RENAMED_QUESTION = ("paging", "pagination")
RENAMED_CHOICE = ("background_jobs", "celery_worker", "celery")
ADDED_QUESTION = "read_replica"
MOVED = ("app/core/proxies.py", "app/core/http/forwarded.py")
REMOVED = "app/core/removed.py"
# Whose first or last line has changed since: a line that a team puts there is a conflict.
CONTESTED = {"app/core/operations/capacity.py", "app/core/telemetry/logs.py", "app/main.py", "noxfile.py", *MOVED}
# Files of the renamed choice alone. Copier also renders the newer `_exclude` with the older name of the choice, which
# leaves these files out of the comparison: any edit there is a conflict.
CHOSEN = re.compile(r"app/core/jobs/(broker|celery|celery_worker|direct|outbox|relay)\.py")


def make_lists_shorter(template: Path) -> None:
    """Remove the line before each anchor, as if the newer version had added it; and change a line between them."""
    pyproject = source(template, "pyproject.toml")
    text, count = re.subn(r'  "[^\n]+\n(?=(\{% endif %\}\n)?  # Add your own )', "", read(pyproject))
    assert count == 2
    write(pyproject, text)
    substitute(pyproject, r'(?<=\n  "ruff)(?=>=)', "<9,")


def wire_otherwise(template: Path) -> None:
    """The files that put the service together, next to where a team writes as well."""
    substitute(source(template, "app/main.py"), r'^"""', '"""Older: ')
    substitute(source(template, "app/main.py"), r"from app import resources\n", "")
    substitute(source(template, "app/main.py"), r"    resources=[^\n]+\n(?=\)\n)", "")
    substitute(source(template, "app/core/application.py"), r" +Middleware\(CommitTokens\),\n", "")
    substitute(source(template, "noxfile.py"), r'^"""', '"""Older: ')
    substitute(source(template, ".github/workflows/ci.yml"), "Run every check", "Run the checks")


def change_contents(template: Path) -> None:
    """In each class of ownership: changed, created and removed since."""
    append(source(template, "app/core/operations/capacity.py"), f"\n\n# {OLDER}\n")
    substitute(source(template, "app/core/telemetry/logs.py"), r'^"""', '"""Older: ')
    source(template, "app/core/operations/health.py").unlink()
    write(template / "template/app/core/unused.py", '"""Gone since."""\n')
    append(source(template, "app/settings.py"), f"\n\n# {OLDER}\n")
    append(source(template, "README.md"), f"\n{OLDER}\n")
    source(template, "tests/dashboard/test_dashboard.py").unlink()
    conftest = source(template, "tests/conftest.py")
    write(conftest, read(conftest).replace('.plugin"]', f'.plugin"]  # {OLDER}'))


def rename_question(template: Path) -> None:
    older, newer = RENAMED_QUESTION

    def change(config: dict[str, Any]) -> None:
        items = [(older if name == newer else name, value) for name, value in config.items()]
        config.clear()
        config.update(items)

    rewrite(template, change, lambda tag: re.sub(rf"\b{newer}\b", older, tag))


def rename_choice(template: Path) -> None:
    question, older, newer = RENAMED_CHOICE

    def change(config: dict[str, Any]) -> None:
        choices = config[question]["choices"]
        config[question]["choices"] = {text: older if value == newer else value for text, value in choices.items()}

    # Also within the list of `in (...)`.
    operator = r"(?:[!=]= |(?:not )?in \([^)]*)"
    comparison = re.compile(rf"(?P<before>\b{question} {operator}(?P<quote>['\"])){newer}(?=(?P=quote))")
    rewrite(template, change, lambda tag: comparison.sub(lambda match: match["before"] + older, tag))


def move_file(template: Path) -> None:
    older, newer = MOVED
    name, renamed = (path.removesuffix(".py").replace("/", ".") for path in (newer, older))
    for path in (template / "template").rglob("*"):
        if path.is_file() and path.suffix in {".py", ".jinja", ".md"} and name in read(path):
            write(path, read(path).replace(name, renamed))
    source(template, newer).rename(template / "template" / older)
    append(template / "template" / older, f"\n\n# {OLDER}\n")


def remove_file(template: Path) -> None:
    write(template / "template" / REMOVED, '"""Gone since."""\n\n\ndef useful() -> int:\n    return 1\n')


def unchanged(answers: Answers) -> Answers:
    return answers


def without_added(answers: Answers) -> Answers:
    return {question: answer for question, answer in answers.items() if question != ADDED_QUESTION}


def with_older_question(answers: Answers) -> Answers:
    older, newer = RENAMED_QUESTION
    return {older if question == newer else question: answer for question, answer in answers.items()}


def with_older_choice(answers: Answers) -> Answers:
    question, older, newer = RENAMED_CHOICE
    return answers | ({question: older} if answers.get(question) == newer else {})


@dataclass(frozen=True)
class Change:
    """The change of one version.

    `undo` makes the older tree of the newer, and `older` the answers of a service that was made from it; `migrations`
    are the newer version's, without their `version`; `asks` are the questions that it added.
    """

    name: str
    undo: Callable[[Path], None]
    older: Callable[[Answers], Answers] = unchanged
    migrations: tuple[Mapping[str, Any], ...] = ()
    asks: tuple[str, ...] = ()


def hook(stage: str, script: str, *arguments: str) -> tuple[dict[str, Any]]:
    """An entry of `_migrations` that runs a script of hooks/, as hooks/README.md writes it."""
    return (
        {
            "when": f"{{{{ _stage == '{stage}' }}}}",
            "command": ["{{ _copier_python }}", f"{{{{ _copier_conf.src_path }}}}/hooks/{script}", *arguments],
        },
    )


# The oldest first. Those with a migration come last, so that the first hops need no trust.
CHANGES: tuple[Change, ...] = (
    Change("grown lists", make_lists_shorter),
    Change("changed wiring", wire_otherwise),
    Change("changed files", change_contents),
    Change(
        "added question",
        lambda template: forget(template, {ADDED_QUESTION: DEFAULTS[ADDED_QUESTION]}),
        older=without_added,
        asks=(ADDED_QUESTION,),
    ),
    Change(
        "renamed question",
        rename_question,
        older=with_older_question,
        migrations=hook("before", "edit_answers.py", "rename", *RENAMED_QUESTION),
    ),
    Change(
        "renamed choice",
        rename_choice,
        older=with_older_choice,
        migrations=hook("before", "edit_answers.py", "value", *RENAMED_CHOICE),
    ),
    Change("moved file", move_file, migrations=hook("after", "merge_moved.py", *MOVED)),
    Change("removed file", remove_file, migrations=hook("after", "hand_over.py", REMOVED)),
)
VERSIONS = tuple(f"v0.{number}.0" for number in range(1, len(CHANGES) + 2))
OLDEST, PRESENT = VERSIONS[0], VERSIONS[-1]


def before(name: str) -> str:
    """Return the version before the change of this name."""
    return VERSIONS[[change.name for change in CHANGES].index(name)]


def after(name: str) -> str:
    """Return the version with the change of this name."""
    return VERSIONS[VERSIONS.index(before(name)) + 1]


def crossed(start: str, end: str) -> tuple[Change, ...]:
    """Return the changes between two versions."""
    return CHANGES[VERSIONS.index(start) : VERSIONS.index(end)]


def needs_trust(start: str, end: str) -> bool:
    return any(change.migrations for change in crossed(start, end))


def answers_at(version: str, answers: Answers) -> Answers:
    """Return today's answers in the names of an older version."""
    for change in reversed(crossed(version, PRESENT)):
        answers = change.older(answers)
    return answers


def new_answers(start: str, end: str, answers: Answers) -> dict[str, Answer]:
    """Return the answers of a team, with `-d`, to the questions that were added between two versions."""
    asked = {question for change in crossed(start, end) for question in change.asks}
    return {question: answer for question, answer in answers_at(end, answers).items() if question in asked}


def make_history(template: Path, destination: Path, *, migrations: bool = True) -> Path:
    """A repository with all versions; its HEAD is the present one. Without `migrations` no version brings its hooks."""
    shutil.copytree(template, destination)
    trees = [write_tree(destination, CHANGES if migrations else ())]
    for number, change in reversed(list(enumerate(CHANGES))):
        change.undo(destination)
        trees.append(write_tree(destination, CHANGES[:number] if migrations else ()))
    parent: list[str] = []
    for version, tree in zip(VERSIONS, reversed(trees), strict=True):
        commit = git(destination, "commit-tree", tree, *parent, "-m", version).strip()
        git(destination, "tag", version, commit)
        parent = ["-p", commit]
    git(destination, "reset", "--quiet", "--hard", PRESENT)
    return destination


def write_tree(template: Path, changes: Iterable[Change]) -> str:
    """Store the tree as it lies there, with the migrations of all changes up to it; returns its hash."""
    plain = read(template / "copier.yml")
    entries = [
        {"version": VERSIONS[number + 1], **migration}
        for number, change in enumerate(changes)
        for migration in change.migrations
    ]
    if entries:
        config = yaml.safe_load(plain)
        configure(template, config | {"_migrations": [*config.get("_migrations", []), *entries]})
    git(template, "add", "--all")
    tree = git(template, "write-tree").strip()
    write(template / "copier.yml", plain)
    return tree
