"""The answer `ci`: workflows are valid and pinned, and the job that proposes updates works.

Its command lines are taken from the rendered YAML and run as the CI would, in a clone of a bare remote. There are
stand-ins on PATH: gh records, uvx runs the Copier of these tests, uv runs the script and imitates `lock` and the check.
"""

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.quick_copier import COPIER
from tests.rendering import ROOT, commit, git, render, with_few_files
from tests.variants import Answers

SYSTEMS = ("github", "gitlab")
BRANCH = "template-update/1.1.0"
TOKEN = "s3cret-of-the-job"  # noqa: S105
SHA = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def run_tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that is installed beside this Python."""
    program = shutil.which(name, path=Path(sys.executable).parent)
    assert program, f"{name} is missing: it is in the dependency group `tests`"
    return subprocess.run(
        [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def assert_valid(schema: str, *paths: Path) -> None:
    process = run_tool("check-jsonschema", "--builtin-schema", schema, *paths)
    assert process.returncode == 0, process.stdout + process.stderr


def load(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


# --- The files ---


@pytest.fixture(scope="module")
def services(rendered: Callable[[Answers], Path]) -> dict[str, Path]:
    """A service of each answer; read only."""
    return {answer: rendered({"ci": answer}) for answer in (*SYSTEMS, "none")}


@pytest.fixture
def workflows(services: dict[str, Path]) -> list[Path]:
    paths = sorted((services["github"] / ".github/workflows").iterdir())
    assert [path.name for path in paths] == ["ci.yml", "template-update.yml"]
    return paths


def test_the_workflows_are_valid_and_every_job_ends(workflows: list[Path]) -> None:
    assert_valid("vendor.github-workflows", *workflows)
    assert_valid("custom.github-workflows-require-timeout", *workflows)


def test_the_workflows_have_no_known_weakness(services: dict[str, Path]) -> None:
    process = run_tool("zizmor", "--offline", "--no-progress", "--pedantic", services["github"] / ".github")
    assert process.returncode == 0, process.stdout + process.stderr


def test_actions_are_pinned_to_commits_and_the_pull_request_checks_may_only_read(workflows: list[Path]) -> None:
    used = [line.split("uses: ")[1] for path in workflows for line in path.read_text().splitlines() if "uses: " in line]
    assert len(used) == 6
    assert [action for action in used if not SHA.fullmatch(action)] == []
    assert load(workflows[0])["permissions"] == {"contents": "read"}
    assert load(workflows[1])["permissions"] == {}


def test_the_checksum_is_that_of_the_program_of_this_version(services: dict[str, Path]) -> None:
    script = (services["github"] / "dev/template_update.sh").read_text(encoding="utf-8")
    digest = hashlib.sha256((ROOT / "hooks/propose_update.py").read_bytes()).hexdigest()
    assert re.findall(r"\b[0-9a-f]{64}\b", script) == [digest], "write this digest into dev/template_update.sh"


def test_the_pipeline_is_valid(services: dict[str, Path]) -> None:
    assert_valid("vendor.gitlab-ci", services["gitlab"] / ".gitlab-ci.yml")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_checks_are_those_of_the_readme(services: dict[str, Path], system: str) -> None:
    readme = (services[system] / "README.md").read_text(encoding="utf-8")
    command = commands(services[system], system, "checks")[0].strip()
    assert command == "uv run nox"
    assert f"{command}  " in readme


@pytest.mark.parametrize("answer", [*SYSTEMS, "none"])
def test_the_settings_for_renovate_are_valid(services: dict[str, Path], tmp_path: Path, answer: str) -> None:
    readme = (services[answer] / "README.md").read_text(encoding="utf-8")
    settings = re.findall(r"```json\n(.*?)```", readme.partition("\n## Update\n")[2], re.DOTALL)
    assert len(settings) == 1
    (tmp_path / "renovate.json").write_text(settings[0], encoding="utf-8")
    assert_valid("vendor.renovate", tmp_path / "renovate.json")


# --- The job ---

PROGRAMS = {
    "uvx": """\
#!/bin/sh
[ "$1" = copier ] || exit 64
shift
exec {copier} "$@"
""",
    "uv": """\
#!/bin/sh
case "$*" in
    "run --quiet --script "*/propose_update.py" "*) shift 3; exec "{python}" "$@" ;;
    "lock") cksum pyproject.toml > uv.lock ;;
    "run --quiet mypy") cksum pyproject.toml > uv.lock; exec "{python}" "{home}/check.py" ;;
    *) echo "unexpected: uv $*" >&2; exit 64 ;;
esac
""",
    "gh": """\
#!{python}
import json, os, sys
from pathlib import Path
texts = [Path(after).read_text() for option, after in zip(sys.argv, sys.argv[1:]) if option == "--body-file"]
with open("{home}/gh.jsonl", "a") as log:
    log.write(json.dumps(sys.argv[1:] + texts) + "\\n")
sys.exit("refused" if os.environ["GH_REFUSES"] in sys.argv else 0)
""",
}
# As mypy: it stops at a file that is not Python, and names modules that are gone; and what it should not see.
CHECK = """\
import ast, os, re
from pathlib import Path
found = [name for name in os.environ if "TOKEN" in name or name.startswith("GIT_CONFIG")]
for path in sorted(Path("app").rglob("*.py")):
    ast.parse(path.read_text())
    for name in re.findall(r"^from (app[.]core[.]removed) import", path.read_text(), re.MULTILINE):
        if not Path(name.replace(".", "/") + ".py").exists():
            found.append(f"{path}: {name} does not exist")
print("\\n".join(found))
raise SystemExit(len(found))
"""
HOOK = """\
#!/bin/sh
i=0
while [ "$i" -lt "${{GIT_PUSH_OPTION_COUNT:-0}}" ]; do
    eval "printf '%s\\n' \\"\\$GIT_PUSH_OPTION_$i\\"" >> "{home}/options"
    i=$((i + 1))
done
"""


def commands(service: Path, system: str, job: str) -> tuple[str, dict[str, str]]:
    """The command lines of a job in the rendered YAML, and the variables that it sets for them."""
    if system == "gitlab":
        settings = load(service / ".gitlab-ci.yml")[job]
        return "\n".join(settings["script"]), settings.get("variables", {})
    names = {"checks": ("ci", "checks"), "template-update": ("template-update", "update")}
    workflow, name = names[job]
    steps = load(service / f".github/workflows/{workflow}.yml")["jobs"][name]["steps"]
    scripts = [step for step in steps if "run" in step]
    assert len(scripts) == 1
    return scripts[0]["run"], scripts[0].get("env", {})


@dataclass
class Forge:
    """A bare remote with a service, the stand-ins that run its jobs, and the opened requests."""

    system: str
    home: Path

    @property
    def remote(self) -> Path:
        return self.home / "remote.git"

    def branches(self) -> dict[str, str]:
        refs = git(self.remote, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads").splitlines()
        return dict(line.split(" ") for line in refs)

    def show(self, *arguments: str) -> str:
        return git(self.remote, *arguments)

    def check_out(self) -> Path:
        """A fresh clone, as shallow as the CI makes it."""
        clone = self.home / f"clone-{len(list(self.home.glob('clone-*')))}"
        git(self.home, "clone", "--quiet", "--depth=1", self.remote.as_uri(), str(clone))
        if self.system == "gitlab":
            git(clone, "checkout", "--quiet", "--detach")
        return clone

    def run_job(
        self, *, trust: str = "", version: str = "", refuses: str = "nothing", directory: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `template-update` in a new clone, for the service in this directory of it."""
        clone = self.check_out()
        script, variables = commands(clone, self.system, "template-update")
        script = script.replace("dev/template_update.sh", f"{directory}dev/template_update.sh")
        expressions = {
            "${{ secrets.TEMPLATE_UPDATE_TOKEN || github.token }}": TOKEN,
            "${{ inputs.trust }}": trust,
            "${{ vars.TEMPLATE_UPDATE_VERSION }}": version,
        }
        given = {
            # No git settings except for the address of the remote.
            "HOME": str(self.home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "PATH": os.pathsep.join([str(self.home / "bin"), os.environ["PATH"]]),
            "GH_REFUSES": refuses,
            "TEMPLATE_UPDATE_TRUST": trust,
            "TEMPLATE_UPDATE_VERSION": version,
        }
        if self.system == "github":
            given |= {"GITHUB_REF_NAME": "main"}
        else:
            given |= {
                "CI_COMMIT_BRANCH": "main",
                "CI_PROJECT_PATH": "team/service",
                "CI_SERVER_HOST": "gitlab.example.com",
                "CI_SERVER_PROTOCOL": "https",
                "CI_SERVER_URL": "https://gitlab.example.com",
                "GITLAB_USER_EMAIL": "owner@example.com",
                "GITLAB_USER_NAME": "Owner of the schedule",
                "TEMPLATE_UPDATE_TOKEN": TOKEN,
            }
        process = subprocess.run(
            ["bash", "-e", *(["-o", "pipefail"] if self.system == "gitlab" else []), "-c", script],
            cwd=clone,
            env=given | {name: expressions.get(value, value) for name, value in variables.items()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert TOKEN not in process.stdout + process.stderr
        return process

    def requests(self) -> list[list[str]]:
        """The requests that were opened, each with its draft, target, branch, title and text."""
        if self.system == "gitlab":
            return self.merge_requests()
        log = self.home / "gh.jsonl"
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        found = []
        for call in calls:
            *arguments, text = call
            assert arguments[:2] == ["pr", "create"]
            options = dict(zip(arguments[2:10:2], arguments[3:11:2], strict=True))
            draft = " ".join(arguments[10:])
            found.append([draft, options["--base"], options["--head"], options["--title"], text])
        return found

    def merge_requests(self) -> list[list[str]]:
        log = self.home / "options"
        text = log.read_text() if log.exists() else ""
        found = []
        for request in text.split("merge_request.create\n")[1:]:
            options = dict(line.removeprefix("merge_request.").partition("=")[::2] for line in request.splitlines())
            (branch,) = self.branches().keys() - {"main"}
            # As GitLab does it: https://gitlab.com/gitlab-org/gitlab/-/merge_requests/87020
            description = options["description"].replace("\\n", "\n")
            found.append(
                ["--draft" if "draft" in options else "", options["target"], branch, options["title"], description]
            )
        return found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


ANCHOR = "  # Add your own jobs below this line.\n"
OWN_JOB = "  deploy:\n    needs: checks\n    runs-on: ubuntu-latest\n    steps:\n      - run: ./deploy\n"
OWN_GITLAB_JOB = "deploy:\n  needs: [checks]\n  script:\n    - ./deploy\n"


@pytest.fixture(scope="module")
def releases(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with two releases: v1.1.0 is the present one, v1.0.0 differs from it in every way that counts."""
    home = with_few_files(template, tmp_path_factory.mktemp("releases") / "template")
    rendered = home / "template"
    edit(
        rendered / "app/core/http/routing.py",
        (rendered / "app/core/http/routing.py").read_text().splitlines()[0],
        '"""Older."""',
    )
    write(rendered / "app/core/removed.py", '"""Gone in the next version."""\n\nTHERE = True\n')
    edit(rendered / ".github/workflows/ci.yml", "run: uv run nox\n", "run: uv run nox -s tests\n")
    edit(rendered / ".gitlab-ci.yml", "- uv run nox\n", "- uv run nox -s tests\n")
    uvloop = "uvloop>=0.23; sys_platform != 'win32' and implementation_name == 'cpython'"
    edit(rendered / "pyproject.toml.jinja", f'  "{uvloop}",\n', "")
    commit(home, "The older release")
    git(home, "tag", "v1.0.0")
    git(home, "read-tree", "--reset", "-u", "HEAD~1")
    commit(home, "The newer release")
    git(home, "tag", "v1.1.0")
    return home


@pytest.fixture(scope="module")
def forges(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Services of v1.0.0 without edits; a test copies one."""
    homes = {system: tmp_path_factory.mktemp(system) for system in SYSTEMS}
    for system, home in homes.items():
        service = render(releases, home / "service", {"ci": system}, "v1.0.0")
        write(service / "uv.lock", "locked\n")
        commit(service, "Start from the template")
    return homes


@pytest.fixture
def forge(request: pytest.FixtureRequest, forges: dict[str, Path], tmp_path: Path) -> Forge:
    """A forge with a service as it was rendered; `edited` makes it one that a team has worked on."""
    system = request.param
    home = tmp_path / "forge"
    shutil.copytree(forges[system], home)
    git(home, "clone", "--quiet", "--bare", "service", "remote.git")
    git(home / "remote.git", "config", "receive.advertisePushOptions", "true")
    git(home / "service", "remote", "add", "origin", str(home / "remote.git"))
    values = {"python": sys.executable, "copier": shlex.join(COPIER), "home": str(home)}
    for path, text in {
        **{home / "bin" / name: text.format(**values) for name, text in PROGRAMS.items()},
        home / "remote.git/hooks/pre-receive": HOOK.format(**values),
    }.items():
        write(path, text)
        path.chmod(0o755)
    write(home / "check.py", CHECK)
    write(
        home / ".gitconfig", f'[url "{home}/remote.git"]\n  insteadOf = https://gitlab.example.com/team/service.git\n'
    )
    return Forge(system, home)


def push(forge: Forge, message: str, refspec: str = "HEAD:main") -> None:
    commit(forge.home / "service", message)
    git(forge.home / "service", "push", "--quiet", "origin", refspec)


def work(forge: Forge) -> None:
    """Work like a team: edit files of ours (one will be removed) and seams, and add files."""
    service = forge.home / "service"
    edit(service / "app/core/http/routing.py", '"""Older."""', '"""The team\'s."""')
    edit(service / "app/core/removed.py", "THERE = True", "THERE = 'for the team'")
    write(service / "app/orders.py", '"""Orders."""\n\nfrom app.core.removed import THERE\n\nORDERS = THERE\n')
    edit(service / "pyproject.toml", "\n]\n\n[dependency-groups]", '\n  "httpx>=0.28",\n]\n\n[dependency-groups]')
    if forge.system == "github":
        edit(service / ".github/workflows/ci.yml", ANCHOR, ANCHOR + OWN_JOB)
    else:
        write(service / ".gitlab/ci.yml", OWN_GITLAB_JOB)
    push(forge, "The team's work")


both = pytest.mark.parametrize("forge", SYSTEMS, indirect=True)
github = pytest.mark.parametrize("forge", ["github"], indirect=True)


@both
def test_a_newer_version_is_proposed_with_conflicts_deletions_and_what_no_longer_works(forge: Forge) -> None:
    work(forge)
    main = forge.branches()["main"]
    process = forge.run_job()
    assert process.returncode == 0, process.stderr

    # One commit on a branch of its own, and nothing else.
    assert forge.branches().keys() == {"main", BRANCH}
    assert forge.branches()["main"] == main
    assert forge.show("rev-list", "--parents", "-1", BRANCH).split()[1:] == [main]
    changed = forge.show("diff", "--name-status", "--no-renames", "main", BRANCH).split("\n")[:-1]
    assert sorted(changed) == sorted(
        [
            "M\t.copier-answers.yml",
            "M\tapp/core/http/routing.py",
            "D\tapp/core/removed.py",
            "M\tpyproject.toml",
            "M\tuv.lock",
            "M\t.github/workflows/ci.yml" if forge.system == "github" else "M\t.gitlab-ci.yml",
        ]
    )
    conflict = forge.show("show", f"{BRANCH}:app/core/http/routing.py")
    assert conflict.startswith('<<<<<<< before updating\n"""The team\'s."""\n=======\n')

    # The team's lines at the seams are there, beside changes of the template next to them.
    dependencies = forge.show("show", f"{BRANCH}:pyproject.toml")
    assert '"uvloop>=0.23;' in dependencies
    assert '"httpx>=0.28"' in dependencies

    ((draft, target, branch, title, text),) = forge.requests()
    assert draft == "--draft"
    assert (target, branch) == ("main", BRANCH)
    assert title == "Update the template to 1.1.0 (1 conflict)"
    assert text.startswith("Updates the template from 1.0.0 to 1.1.0, ")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == [
        "Conflicts: 1",
        "Deleted: 1",
        "Fails: `uv run --quiet mypy`",
        "Before you merge",
    ]
    assert "```text\napp/core/http/routing.py\n```" in sections[0]
    restore = f"git checkout {main[:12]} -- app/core/removed.py"
    assert f"```console\n{restore}\n```" in sections[1]
    # Not the conflict, at which a type check would stop; no token, no git settings.
    assert "```text\napp/orders.py: app.core.removed does not exist\n```" in sections[2]

    # The command brings the team's file back.
    git(forge.home, "clone", "--quiet", "--branch", BRANCH, str(forge.remote), "review")
    git(forge.home / "review", *shlex.split(restore)[1:])
    assert "for the team" in (forge.home / "review/app/core/removed.py").read_text()

    # A second run changes nothing and asks for nothing.
    before = forge.branches()
    process = forge.run_job()
    assert process.returncode == 0, process.stderr
    assert f"{BRANCH} exists already, and is left as it is." in process.stdout
    assert forge.branches() == before
    assert len(forge.requests()) == 1


@both
def test_a_job_of_the_team_merges_with_a_change_beside_it(forge: Forge) -> None:
    work(forge)
    process = forge.run_job()
    assert process.returncode == 0, process.stderr
    updated = forge.home / "updated"
    git(forge.home, "clone", "--quiet", "--branch", BRANCH, str(forge.remote), str(updated))
    assert commands(updated, forge.system, "checks")[0].strip() == "uv run nox"
    if forge.system == "github":
        assert_valid("vendor.github-workflows", updated / ".github/workflows/ci.yml")
        assert (updated / ".github/workflows/ci.yml").read_text().endswith(ANCHOR + OWN_JOB)
    else:
        (include,) = load(updated / ".gitlab-ci.yml")["include"]
        assert (updated / include["local"]).read_text() == OWN_GITLAB_JOB
        assert include["rules"] == [{"exists": [include["local"]]}]


@both
def test_without_conflicts_the_request_is_ready_for_review(forge: Forge) -> None:
    process = forge.run_job()
    assert process.returncode == 0, process.stderr
    ((draft, _, branch, title, text),) = forge.requests()
    assert (draft, branch, title) == ("", BRANCH, "Update the template to 1.1.0")
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["Deleted: 1", "Before you merge"]
    author = "github-actions[bot]" if forge.system == "github" else "Owner of the schedule"
    assert forge.show("log", "-1", "--format=%an, %s", BRANCH) == f"{author}, {title}\n"


@both
def test_a_branch_that_somebody_works_on_is_left_as_it_is(forge: Forge) -> None:
    write(forge.home / "service/solved.txt", "An hour of work\n")
    push(forge, "Solve conflicts", f"HEAD:refs/heads/{BRANCH}")
    before = forge.branches()
    process = forge.run_job()
    assert process.returncode == 0, process.stderr
    assert f"{BRANCH} exists already, and is left as it is. Delete it" in process.stdout
    assert forge.branches() == before
    assert forge.requests() == []


@both
def test_without_a_newer_version_nothing_happens(forge: Forge, releases: Path) -> None:
    git(releases, "tag", "--delete", "v1.1.0")
    try:
        process = forge.run_job()
    finally:
        git(releases, "tag", "v1.1.0")
    assert process.returncode == 0, process.stderr
    assert "There is nothing to update: the version is 1.0.0, and the job updates to 1.0.0." in process.stdout
    assert forge.branches().keys() == {"main"}
    assert forge.requests() == []


@github
def test_a_variable_holds_the_job_below_a_version_or_admits_a_pre_release(forge: Forge, releases: Path) -> None:
    for tag in ("v1.2.0", "v1.3.0rc1"):
        git(releases, "tag", tag)
    try:
        process = forge.run_job(version="v1.0.0")
        assert "the version is 1.0.0, and the job updates to 1.0.0." in process.stdout
        assert forge.branches().keys() == {"main"}
        assert forge.run_job(version="v1.1.0").returncode == 0
        assert forge.run_job(version="v1.3.0rc1").returncode == 0
    finally:
        git(releases, "tag", "--delete", "v1.2.0", "v1.3.0rc1")
    assert forge.branches().keys() == {"main", BRANCH, "template-update/1.3.0rc1"}
    answers = forge.show("show", f"{BRANCH}:.copier-answers.yml")
    assert "_commit: v1.1.0\n" in answers


@github
def test_a_service_in_a_directory_has_branches_of_its_own_and_its_neighbours_stay_as_they_are(forge: Forge) -> None:
    # As docs/platform-teams.md says; and the answers file has the name that `copier copy -a` gave it.
    service = forge.home / "service"
    work(forge)
    (service / "services/orders").mkdir(parents=True)
    for name in git(service, "ls-tree", "--name-only", "HEAD").splitlines():
        if name != ".github":
            answers = name == ".copier-answers.yml"
            git(service, "mv", name, f"services/orders/{'.copier-answers.orders.yml' if answers else name}")
    write(service / "services/mail/app.py", "MAIL = True\n")
    push(forge, "One repository for several services")
    git(service, "push", "--quiet", "origin", "HEAD:refs/heads/template-update/services/mail/1.0.5")
    process = forge.run_job(directory="services/orders/")
    assert process.returncode == 0, process.stderr
    branch = "template-update/services/orders/1.1.0"
    assert branch in forge.branches()
    changed = forge.show("diff", "--name-only", "main", branch).splitlines()
    assert "services/orders/.copier-answers.orders.yml" in changed
    assert [path for path in changed if not path.startswith("services/orders/")] == []
    ((_, _, head, title, text),) = forge.requests()
    assert (head, title) == (branch, "Update the template to 1.1.0 (1 conflict)")
    assert "```text\napp/core/http/routing.py\n```" in text
    assert "```text\napp/orders.py: app.core.removed does not exist\n```" in text
    assert "It replaces these branches" not in text
    assert forge.run_job(directory="services/orders/").returncode == 0
    assert len(forge.requests()) == 1


@github
def test_branches_of_older_versions_are_named_once_a_newer_one_is_there(forge: Forge) -> None:
    git(forge.home / "service", "push", "--quiet", "origin", "HEAD:refs/heads/template-update/1.0.5")
    assert forge.run_job().returncode == 0
    assert "It replaces these branches, which you may delete: `template-update/1.0.5`." in forge.requests()[0][-1]


@both
def test_migrations_run_only_when_somebody_says_so(forge: Forge, releases: Path) -> None:
    copier_yml = releases / "copier.yml"
    migration = '\n_migrations:\n  - version: v1.2.0\n    command: ["touch", "migrated.txt"]\n'
    write(copier_yml, copier_yml.read_text(encoding="utf-8") + migration)
    commit(releases, "A migration")
    git(releases, "tag", "v1.2.0")
    try:
        process = forge.run_job()
        assert process.returncode == 1
        assert "has migrations, which are programs, and nothing was changed.\n" in process.stderr
        assert (
            "git switch --create template-update/1.2.0\n  uvx copier update --defaults -a .copier-answers.yml --trust\n"
            in process.stderr
        )
        assert forge.branches().keys() == {"main"}
        assert forge.requests() == []

        process = forge.run_job(trust="true")
        assert process.returncode == 0, process.stderr
        assert forge.show("show", "template-update/1.2.0:migrated.txt") == ""
    finally:
        git(releases, "tag", "--delete", "v1.2.0")
        git(releases, "reset", "--quiet", "--hard", "v1.1.0")


@both
def test_a_template_that_cannot_be_read_fails_the_job_and_says_what_it_may_need(forge: Forge) -> None:
    answers = forge.home / "service/.copier-answers.yml"
    write(answers, re.sub("(?m)^_src_path: .*", f"_src_path: file://{forge.home}/gone.git", answers.read_text()))
    push(forge, "A template that is gone")
    process = forge.run_job()
    assert process.returncode == 1
    assert "If it is private, this job needs a token that reads it." in process.stderr
    assert forge.branches().keys() == {"main"}
    assert forge.requests() == []


@github
def test_where_there_are_no_drafts_a_request_is_opened_that_is_none(forge: Forge) -> None:
    work(forge)
    process = forge.run_job(refuses="--draft")
    assert process.returncode == 0, process.stderr
    assert [draft for draft, *_ in forge.requests()] == ["--draft", ""]
    assert BRANCH in forge.branches()


@github
def test_a_request_that_cannot_be_opened_leaves_no_branch_to_stop_the_next_run(forge: Forge) -> None:
    assert forge.run_job(refuses="create").returncode == 1
    assert forge.branches().keys() == {"main"}
    process = forge.run_job()
    assert process.returncode == 0, process.stderr
    assert BRANCH in forge.branches()


def test_without_its_token_the_gitlab_job_says_which_one_it_needs(services: dict[str, Path], tmp_path: Path) -> None:
    script, _ = commands(services["gitlab"], "gitlab", "template-update")
    process = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "Set TEMPLATE_UPDATE_TOKEN" in process.stdout


@github
def test_a_moved_tag_of_the_template_runs_no_other_program(forge: Forge, releases: Path) -> None:
    before = git(releases, "rev-parse", "v1.0.0").strip()
    git(releases, "switch", "--quiet", "--detach", "v1.0.0")
    write(releases / "hooks/propose_update.py", 'print("stolen")\n')
    commit(releases, "Another program")
    git(releases, "tag", "--force", "v1.0.0")
    git(releases, "switch", "--quiet", "-")
    try:
        process = forge.run_job()
    finally:
        git(releases, "tag", "--force", "v1.0.0", before)
    assert process.returncode == 1
    assert "stolen" not in process.stdout
    assert "propose_update.py: FAILED" in process.stdout
    assert forge.branches().keys() == {"main"}


# --- The text of a request ---


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("propose_update", ROOT / "hooks/propose_update.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_output_with_a_fence_in_it_does_not_end_its_own(script: ModuleType) -> None:
    assert script.section("A", "B:", ["a`b.py", "```.py"]) == ["## A", "B:", "````text\na`b.py\n```.py\n````"]
    assert script.section("A", "B:", ["a"], "diff")[-1] == "```diff\na\n```"
    assert script.section("A", "B:", []) == []


def test_output_is_cut_to_its_end(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "uv", "#!/bin/sh\nseq 1000; exit 1\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    heading, _, block = script.failure([])
    assert heading == "## Fails: `uv run --quiet mypy`"
    assert block.splitlines()[1:-1] == [str(number) for number in range(1001 - script.MOST_LINES, 1001)]
