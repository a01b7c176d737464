"""The hooks, in real updates from an older version of the template that the entries in hooks/README.md are written for.

Only these tests update with trust, and only where an update crosses the version of an entry.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests.quick_copier import COPIER
from tests.rendering import ROOT, commit, git, with_few_files

README = (ROOT / "hooks/README.md").read_text(encoding="utf-8")
ENTRIES: list[Any] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])["_migrations"]
MOVED = ("app/core/errors.py", "app/core/http/problems.py")
ANSWERS_FILE = ".copier-answers.yml"
TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
MARK = "# The team was here.\n"


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)


def lines(changes: Mapping[int, str] | None = None, end: str = "\n") -> str:
    """Nine lines, some of them changed."""
    return "".join(f"{(changes or {}).get(number, number)}{end}" for number in range(1, 10))


def files(service: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of the service with its mode, links as links, and none of git's own."""
    return {
        path.relative_to(service).as_posix(): (
            path.lstat().st_mode,
            os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes(),
        )
        for path in sorted(service.rglob("*"))
        if (path.is_file() or path.is_symlink()) and ".git" not in path.parts
    }


# Moved from tools/old to tools/new: a path, and its contents in the older and the newer release.
TOOLS: dict[str, tuple[str | bytes, str | bytes | None]] = {
    "clean.txt": (lines(), lines({1: "newer"})),
    "conflict.txt": (lines(), lines({5: "newer"})),
    "crlf.txt": (lines(), lines({1: "newer"})),
    "run.sh": (lines(), lines()),
    "one.bin": (b"\0older", b"\0older"),
    "both.bin": (b"\0older", b"\0newer"),
    "deeper/with space and é.txt": (lines(), lines({1: "newer"})),
    "link.txt": (lines(), lines({1: "newer"})),
    "untouched.txt": (lines(), lines({1: "newer"})),
    "deleted.txt": (lines(), lines({1: "newer"})),
    "moved.txt": (lines(), lines({1: "newer"})),
    "taken.txt": (lines(), lines({1: "newer"})),
    "dropped.txt": (lines(), None),
    "dropped_untouched.txt": (lines(), None),
}

CONFLICTS = [f"tools/new/{name}" for name in ("both.bin", "conflict.txt", "link.txt", "taken.txt")]


def make_older(template: Path) -> None:
    rendered = template / "template"
    moved = rendered / MOVED[1]
    write(rendered / MOVED[0], "# Older.\n" + moved.read_text())
    moved.unlink()
    for name in ("dev/legacy/tool.py", "dev/released/tool.py"):
        write(rendered / name, "# Older.\n")
    for name, (older, _) in TOOLS.items():
        write(rendered / "tools/old" / name, older)
    # The question and its choice, under their older names.
    config = (template / "copier.yml").read_text()
    config = config.replace("\npagination:\n", "\npaging:\n").replace(": offset\n", ": pages\n")
    write(template / "copier.yml", rename_in_tags(config))
    for path in rendered.rglob("*.jinja"):
        write(path, rename_in_tags(path.read_text()))


def rename_in_tags(text: str) -> str:
    return TAG.sub(
        lambda tag: (
            re.sub(r"\bpagination\b(?!/)", "paging", tag[0])
            .replace("'offset'", "'pages'")
            .replace('"offset"', '"pages"')
        ),
        text,
    )


def make_newer(template: Path, entries: object) -> None:
    rendered = template / "template"
    for name, (_, newer) in TOOLS.items():
        if newer is not None:
            write(rendered / "tools/new" / name, newer)
    config = (template / "copier.yml").read_text().replace("\n_exclude:\n", "\n_exclude:\n  - /dev/released\n")
    write(template / "copier.yml", config + (yaml.safe_dump({"_migrations": entries}) if entries else ""))


def releases(template: Path, destination: Path, entries: object) -> Path:
    """v1.0.0 and v1.1.0 are the older template; v2.0.0, with these entries, and v2.0.1 are the newer one."""
    with_few_files(template, destination)
    make_older(destination)
    commit(destination, "Older")
    git(destination, "tag", "v1.0.0")
    commit(destination, "Older still")
    git(destination, "tag", "v1.1.0")
    git(destination, "read-tree", "--reset", "-u", "HEAD~2")
    make_newer(destination, entries)
    commit(destination, "Newer")
    git(destination, "tag", "v2.0.0")
    commit(destination, "Newer still")
    git(destination, "tag", "v2.0.1")
    return destination


def work(service: Path) -> None:
    """Edit the files that the next version moves or removes, as a team does."""
    for name in (MOVED[0], "dev/legacy/tool.py", "dev/released/tool.py", "app/main.py"):
        write(service / name, (service / name).read_text() + MARK)
    old, new = service / "tools/old", service / "tools/new"
    for name in ("clean.txt", "deeper/with space and é.txt", "dropped.txt", "taken.txt"):
        write(old / name, lines({9: "team"}))
    write(old / "conflict.txt", lines({5: "team"}))
    # A team that keeps line ends as they are.
    write(service / ".gitattributes", "* -text\n")
    write(old / "crlf.txt", lines({9: "team"}, end="\r\n"))
    write(old / "run.sh", lines(), 0o755)
    write(old / "one.bin", b"\0team")
    write(old / "both.bin", b"\0team")
    (old / "link.txt").unlink()
    (old / "link.txt").symlink_to("clean.txt")
    (old / "deleted.txt").unlink()
    (old / "moved.txt").unlink()
    write(new / "moved.txt", lines({9: "team"}))
    write(new / "taken.txt", "Of the team.\n")
    write(old / "own.txt", "Of the team.\n")


def start(template: Path, repository: Path, directory: str = ".", **options: Any) -> Path:
    """A service of v1.0.0 with work in it, committed; its answer to the question that is renamed is not the default."""
    service = repository / directory
    answers = {"paging": "pages", "example": False}
    copier.run_copy(str(template), service, answers, vcs_ref="v1.0.0", defaults=True, quiet=True, **options)
    work(service)
    commit(repository)
    return service


def update(service: Path, vcs_ref: str, *, trust: bool = False, **options: Any) -> None:
    copier.run_update(service, vcs_ref=vcs_ref, defaults=True, overwrite=True, quiet=True, unsafe=trust, **options)


def run(service: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the service."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=service,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def recorded(service: Path, answers_file: str = ANSWERS_FILE) -> dict[str, Any]:
    answers: dict[str, Any] = yaml.safe_load((service / answers_file).read_text())
    return answers


def state(service: Path) -> tuple[object, str]:
    return files(service), git(service, "status", "--porcelain")


def unmerged(service: Path) -> list[str]:
    return git(service, "diff", "--name-only", "--diff-filter=U", "--relative").splitlines()


def marked(service: Path) -> list[str]:
    return [name for name, (_, content) in files(service).items() if MARK.encode() in content]


@pytest.fixture(scope="module")
def hooked(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return releases(template, tmp_path_factory.mktemp("hooked") / "template", ENTRIES)


@pytest.fixture(scope="module")
def worked(hooked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service before the update; a test copies it."""
    return start(hooked, tmp_path_factory.mktemp("worked") / "service")


def test_what_a_team_did_to_files_that_move_or_go_is_there_after_the_update(
    hooked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Not at the top of its repository; the other tests are.
    service = start(hooked, tmp_path / "repository", "services/my shop")
    before = files(service)
    update(service, "v2.0.0", trust=True)
    after = {name.removeprefix("tools/"): entry for name, entry in files(service).items() if name.startswith("tools/")}
    merged = lines({1: "newer", 9: "team"}).encode()
    conflict = lines({5: "<<<<<<< before updating\nteam\n=======\nnewer\n>>>>>>> after updating"}).encode()
    taken = f"<<<<<<< before updating\nOf the team.\n=======\n{lines({1: 'newer'})}>>>>>>> after updating\n".encode()
    assert {name: content for name, (_, content) in after.items()} == {
        "new/both.bin": b"\0team",
        "new/clean.txt": merged,
        "new/conflict.txt": conflict,
        "new/crlf.txt": merged.replace(b"\n", b"\r\n"),
        "new/deeper/with space and é.txt": merged,
        "new/deleted.txt": lines({1: "newer"}).encode(),
        "new/link.txt": b"clean.txt",
        "new/moved.txt": merged,
        "new/one.bin": b"\0team",
        "new/run.sh": lines().encode(),
        "new/taken.txt": taken,
        "new/untouched.txt": lines({1: "newer"}).encode(),
        "old/dropped.txt": lines({9: "team"}).encode(),
        "old/link.txt": b"clean.txt",
        "old/own.txt": b"Of the team.\n",
        "old/taken.txt": lines({9: "team"}).encode(),
    }
    modes = {name for name, (mode, _) in after.items() if mode != 0o100644}
    assert (modes, oct(after["new/run.sh"][0])) == ({"new/run.sh", "new/link.txt", "old/link.txt"}, "0o100755")
    assert unmerged(service) == CONFLICTS
    assert git(service, "show", ":1:./tools/new/conflict.txt") == lines()
    assert git(service, "show", ":2:./tools/new/conflict.txt") == lines({5: "team"})
    assert git(service, "show", ":3:./tools/new/conflict.txt") == lines({5: "newer"})
    assert (service / MOVED[1]).read_bytes() == (hooked / "template" / MOVED[1]).read_bytes() + MARK.encode()
    assert marked(service) == [MOVED[1], "app/main.py", "dev/legacy/tool.py", "dev/released/tool.py"]
    assert files(service)["dev/legacy/tool.py"] == before["dev/legacy/tool.py"]
    assert recorded(service)["pagination"] == "offset"

    told = capfd.readouterr().err
    for sentence in (
        "Renamed in .copier-answers.yml, as in the template:\n  rename paging pagination\n  value pagination pages",
        f"{MOVED[0]} -> {MOVED[1]}\n\nCONFLICT",
        "then `git add` the file:\n  tools/old/conflict.txt -> tools/new/conflict.txt\n",
        "deleted the file; delete it again if you do not need it:\n  tools/old/deleted.txt -> tools/new/deleted.txt\n",
        "merge these by hand, and delete it:\n  tools/old/taken.txt -> tools/new/taken.txt\n",
        "yours from now on:\n  tools/old/dropped.txt -> tools/new/dropped.txt\n",
        "move those that belong to it:\n  tools/old/own.txt\n",
        "are yours from now on; delete those that you do not need:\n  dev/legacy/tool.py\n",
    ):
        assert sentence in told
    assert "untouched" not in told

    # The next update knows nothing of all this, and needs no trust.
    commit(service)
    before = files(service)
    update(service, "v2.0.1")
    changed = {name for name, entry in files(service).items() if before.pop(name) != entry}
    # Of a binary file that both have, Copier takes the template's at every update, and no hook is asked.
    assert (changed, before) == ({ANSWERS_FILE, "tools/new/one.bin", "tools/new/both.bin"}, {})


def test_without_hooks_copier_loses_all_of_it_but_what_the_template_excludes(template: Path, tmp_path: Path) -> None:
    template = releases(template, tmp_path / "template", None)
    service = start(template, tmp_path / "service")
    update(service, "v2.0.0")
    assert marked(service) == ["app/main.py", "dev/released/tool.py"]
    for name in ("clean.txt", "conflict.txt", "crlf.txt", "one.bin", "both.bin"):
        assert (service / "tools/new" / name).read_bytes() == (template / "template/tools/new" / name).read_bytes()
    assert unmerged(service) == ["tools/new/moved.txt", "tools/new/taken.txt"]
    assert recorded(service)["pagination"] == "cursor"


def test_trust_is_asked_for_only_by_an_update_that_crosses_an_entry(worked: Path, tmp_path: Path) -> None:
    service = Path(shutil.copytree(worked, tmp_path / "service", symlinks=True))
    command = [*COPIER[1:], "update", "--defaults", "--vcs-ref"]
    before = state(service)
    process = run(service, *command, "v2.0.0")
    assert process.returncode
    assert "unsafe feature: migrations" in process.stderr
    assert "Traceback" not in process.stderr
    assert state(service) == before
    process = run(service, *command, "v1.1.0")
    assert process.returncode == 0, process.stderr
    assert recorded(service)["_commit"] == "v1.1.0"


def test_answers_are_renamed_in_a_file_of_another_name_and_when_answered_questions_are_skipped(
    hooked: Path, tmp_path: Path
) -> None:
    name = "config/answers of copier.yml"
    service = start(hooked, tmp_path / "service", answers_file=name)
    update(service, "v2.0.0", trust=True, answers_file=name, skip_answered=True)
    assert recorded(service, name)["pagination"] == "offset"
    assert not (service / ANSWERS_FILE).exists()
    assert MOVED[1] in marked(service)
    assert unmerged(service) == CONFLICTS


def test_an_update_with_uncommitted_changes_is_refused_before_any_hook(worked: Path, tmp_path: Path) -> None:
    service = Path(shutil.copytree(worked, tmp_path / "service", symlinks=True))
    write(service / "new.txt", "Not committed.\n")
    before = state(service)
    with pytest.raises(copier.errors.UserMessageError, match="dirty"):
        update(service, "v2.0.0", trust=True)
    assert state(service) == before


def test_a_hook_that_fails_before_stops_the_update_and_one_that_fails_after_says_how_to_go_back(
    template: Path, tmp_path: Path
) -> None:
    bad = [*ENTRIES[:2], {**ENTRIES[2], "command": [*ENTRIES[2]["command"], "../outside"]}]
    template = releases(template, tmp_path / "template", bad)
    service = start(template, tmp_path / "repository", "service")
    answers = service / ANSWERS_FILE
    write(answers, answers.read_text() + "pagination: cursor\n")
    commit(service)
    before = state(service)
    command = [*COPIER[1:], "update", "--defaults", "--trust", "--vcs-ref", "v2.0.0"]
    process = run(service, *command)
    assert process.returncode == 1
    assert (
        "answers both paging and pagination: delete the wrong line, commit, and update again. Nothing" in process.stderr
    )
    assert state(service) == before

    write(answers, answers.read_text().replace("pagination: cursor\n", ""))
    commit(service)
    before = state(service)
    process = run(service, *command)
    assert process.returncode == 1
    assert "../outside is not inside the service" in process.stderr
    assert "Traceback" not in process.stderr
    assert state(service) != before
    undo = re.findall("The update stopped halfway. .*: `(git reset .*)` goes back to it", process.stderr)
    subprocess.run(undo[0], shell=True, cwd=service, check=True, capture_output=True)  # noqa: S602
    assert state(service) == before


# --- Refusals of a hook ---

MOVE, ANSWERS, HAND = (str(ROOT / "hooks" / name) for name in ("merge_moved.py", "edit_answers.py", "hand_over.py"))
ANSWERS_TEXT = b"""# A comment.\r
_commit: v1.0.0\r
_src_path: gh:example/template\r
cache: redis  # With a comment.\r
parts: [redis, "none", 1, true]\r
replica: true\r
text: |\r
  redis\r
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The smallest service that hooks can work in."""
    service = tmp_path / "service"
    write(service / ANSWERS_FILE, ANSWERS_TEXT)
    write(service / "a.txt", "a\n")
    commit(service)
    return service


def break_git(service: Path) -> None:
    shutil.rmtree(service / ".git")


def break_answers(content: bytes | None) -> Callable[[Path], None]:
    def prepare(service: Path) -> None:
        (service / ANSWERS_FILE).unlink() if content is None else write(service / ANSWERS_FILE, content)
        commit(service)

    return prepare


def make_dirty(service: Path) -> None:
    write(service / "a.txt", "b\n")


def make_link(service: Path) -> None:
    (service / "linked").symlink_to(service.parent)
    commit(service)


RENAME = ("before", ANSWERS, "rename", "cache", "cache_backend")
MOVING = ("after", MOVE, "a.txt", "b.txt")
REFUSED: list[tuple[Callable[[Path], None] | None, tuple[str, ...], str]] = [
    *((break_git, command, "is not in a git repository") for command in (RENAME, MOVING, ("after", HAND, "a.txt"))),
    (break_answers(None), RENAME, "is missing: restore it"),
    (break_answers(None), MOVING, "is not in the last commit"),
    *((break_answers(b"a: [\n"), command, "is not valid YAML") for command in (RENAME, MOVING)),
    *((break_answers(b"\xff\n"), command, "is not valid YAML") for command in (RENAME, MOVING)),
    *((break_answers(b"cache: redis\n"), command, "restore its line `_commit") for command in (RENAME, MOVING)),
    *((break_answers(b"- 1\n"), command, "restore its line `_commit") for command in (RENAME, MOVING)),
    (None, MOVING, "version v1.0.0 of the template, which the service has, cannot be rendered"),
    (make_dirty, RENAME, "are not committed: commit or stash them"),
    (None, ("after", *RENAME[1:]), "when: \"{{ _stage == 'before' }}\""),
    (None, ("before", *MOVING[1:]), "when: \"{{ _stage == 'after' }}\""),
    (None, ("", HAND, "a.txt"), "when: \"{{ _stage == 'after' }}\""),
    (None, ("after", MOVE, "a.txt", "b.txt", "c.txt"), "c.txt has no NEW"),
    *((None, ("after", MOVE, "a.txt", path), "not inside the service") for path in ("../x", "/x", "", ".", "x/../..")),
    *((None, ("after", HAND, path), "not inside the service") for path in ("../x", "/x", ".git/config")),
    *((None, ("after", HAND, path), "is a Windows path") for path in ("app\\x", "C:\\x", "c:/x", "\\\\host\\x")),
    (None, ("before", ANSWERS, "--answers-file=../a.yml", *RENAME[2:]), "not inside the service"),
    (make_link, ("after", MOVE, "a.txt", "linked/x"), "linked is not a directory"),
    (None, ("before", ANSWERS, "rename", "cache"), "is neither `rename OLD NEW` nor"),
    (None, ("before", ANSWERS, "value", "_commit", "v1.0.0", "v2.0.0"), "_commit is not the name of a question"),
    (None, ("before", ANSWERS, "rename", "cache", "replica"), "answers both cache and replica"),
]


@pytest.mark.parametrize(("prepare", "command", "reason"), REFUSED)
def test_what_a_hook_cannot_do_it_refuses_in_one_line_and_changes_nothing(
    small: Path, prepare: Callable[[Path], None] | None, command: tuple[str, ...], reason: str
) -> None:
    if prepare:
        prepare(small)
    before = files(small)
    # As strict as Python can be about where it imports from.
    process = run(small, *command[1:], STAGE=command[0], PYTHONSAFEPATH="1", GIT_CEILING_DIRECTORIES=str(small.parent))
    assert process.returncode
    assert reason in process.stderr
    assert process.stderr.count("\n") == 1
    assert files(small) == before


@pytest.mark.parametrize(
    ("edits", "old", "new"),
    [
        (["rename", "cache", "cache_backend"], b"\ncache: redis ", b"\ncache_backend: redis "),
        (["rename", "cache", "a", "value", "a", "redis", "b"], b"cache: redis ", b'a: "b" '),
        (["value", "cache", "none", "valkey"], b"", b""),
        (["value", "parts", "none", "off"], b'"none", 1', b'"off", 1'),
        (["value", "parts", "1", "2", "value", "parts", "redis", "on"], b'redis, "none", 1', b'"on", "none", 2'),
        (["value", "replica", "true", "near"], b"replica: true", b'replica: "near"'),
        (["value", "replica", "1", "2"], b"", b""),
        (["rename", "text", "words"], b"text: |", b"words: |"),
        (["rename", "unknown", "known", "value", "unknown", "a", "b"], b"", b""),
    ],
)
def test_only_what_is_renamed_changes_in_an_answers_file_and_only_once(
    small: Path, edits: list[str], old: bytes, new: bytes
) -> None:
    expected = ANSWERS_TEXT.replace(old, new) if old else ANSWERS_TEXT
    for _ in range(2):
        process = run(small, ANSWERS, *edits, STAGE="before")
        assert process.returncode == 0, process.stderr
        assert (small / ANSWERS_FILE).read_bytes() == expected
