"""`nox -s services`: the report over the clones of real services."""

import json
import os
import shutil
from pathlib import Path

import pytest

from releases.services import Service, main, parse, report
from tests.history import write
from tests.rendering import commit, git

ANSWERS = "# Written by Copier\n_commit: {}\n_src_path: {}\nci: github\nproject_slug: {}\n"
GH = """\
#!/bin/sh
[ "$*" = "run list --workflow ci.yml --branch main --status success --limit 1 --json updatedAt" ] || exit 64
echo '[{"updatedAt":"2026-11-20T05:23:00Z"}]'
"""
MARKED = "<<<<<<< before updating\n1\n=======\n2\n>>>>>>> after updating\n"


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A clone with one service, one with two services in directories, and `gh`."""
    template = tmp_path / "template"
    write(template / "copier.yml", "")
    commit(template)
    for tag in ("v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0rc1", "nightly"):
        git(template, "tag", tag)
    single, several = tmp_path / "origin/single", tmp_path / "origin/several"
    write(single / ".copier-answers.yml", ANSWERS.format("v1.0.0", template, "single"))
    write(several / "orders/.copier-answers.slip.yml", ANSWERS.format("v1.2.0-3-g1a2b3c4", template, "orders"))
    write(several / "mail/.copier-answers.yml", ANSWERS.format("v1.1.0", tmp_path / "gone", "mail"))
    write(several / "mail/app.py", MARKED)
    found = []
    for origin in (single, several):
        commit(origin)
        git(origin, "switch", "--quiet", "--create", "template-update/1.2.0")
        write(origin / "app/a.py", MARKED)
        commit(origin)
        git(origin, "switch", "--quiet", "main")
        git(tmp_path, "clone", "--quiet", str(origin), f"clones/{origin.name}")
        found.append(str(tmp_path / "clones" / origin.name))
    write(tmp_path / "bin/gh", GH)
    (tmp_path / "bin/gh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return found


def test_a_report_has_the_version_the_conflicts_and_the_last_green_run_of_each_service(
    clones: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(clones) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert table == [
        ["several/mail", "1.1.0", "?", "0", "1", "2026-11-20T05:23:00Z"],
        ["single", "1.0.0", "2", "1", "1", "2026-11-20T05:23:00Z"],
        ["several/orders", "1.2.0", "0", "0", "0", "2026-11-20T05:23:00Z"],
    ]
    assert main(["--json", *clones]) == 0
    single, mail, _ = json.loads(capsys.readouterr().out)
    assert single["updates"] == ["template-update/1.2.0"]
    assert single["conflicts"] == ["template-update/1.2.0:app/a.py"]
    assert (mail["name"], mail["behind"], mail["conflicts"]) == ("several/mail", None, ["app.py"])


def test_a_run_that_nobody_can_name_is_unknown(clones: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write(Path(shutil.which("gh") or ""), "#!/bin/sh\nexit 4\n")
    assert main(["--json", clones[0]]) == 0
    assert json.loads(capsys.readouterr().out)[0]["green"] is None


def test_a_directory_without_a_repository_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path)])
    assert caught.value.code == 2
    assert f"not the root of a git repository: {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tag", "version"), [("v1.2.0", "1.2.0"), ("1.2.0.post1", "1.2.0.post1"), ("v1.2.0-3-gabc1234", "1.2.0")]
)
def test_a_tag_and_a_commit_after_it_have_a_version(tag: str, version: str) -> None:
    assert str(parse(tag)) == version


def test_a_branch_has_no_version_and_no_service_makes_an_empty_table() -> None:
    assert parse("main") is None
    assert report([]) == "service  version  behind by  open updates  conflicts  last green run"
    assert Service("a", "main", None, (), (), None).name in report([Service("a", "main", None, (), (), None)])
