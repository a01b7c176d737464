"""The documentation is true: links and commands exist, examples work, and transcripts match the output."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests import figures, ownership
from tests.environments import run_uv, uv_environment, uv_program
from tests.interpreters import oldest
from tests.quick_copier import COPIER
from tests.rendering import ROOT, commit, git, render, with_few_files
from tests.variants import DEFAULTS, QUESTIONS, VARIANTS, Answers

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("hooks/*.md"), *ROOT.glob("benchmarks/*.md")]
)
PRESETS = sorted((ROOT / "presets").glob("*.yml"))
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
# The words that open a block of an example: "In `app/api.py`:", or more between path and colon.
FILE = re.compile(
    r"\b[Ii]n `(?P<path>[^`]+)`[^`\n]*(?:`[^`]*`[^`\n]*)?:\n\n```(?P<kind>diff|python|yaml|json)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"`(?P<text>[^`\n]+)`")
PATH = re.compile(r"(?:\.?[\w-]+/)+[\w.-]*|[\w.-]+\.(?:py|md|yml|toml|lock)")

TIMEOUT_S = 300


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program without a terminal; stdout and stderr are one output."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


# --- Links, paths and commands ---


def anchors(page: Path) -> set[str]:
    """Return GitHub's anchors for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", read(page))):
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@pytest.fixture(scope="module")
def everything(rendered: Callable[[Answers], Path]) -> Path:
    return rendered(DEFAULTS | VARIANTS["everything"])


@pytest.fixture(scope="module")
def defaults(rendered: Callable[[Answers], Path]) -> Path:
    return rendered({})


HOW_TO = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs") and page.name != "CHANGELOG.md"]
# Files that a page itself creates or removes.
OWN = {
    "adopting.md": re.compile(r"alembic\.ini"),
    "ownership.md": re.compile(r"grafana/"),
    "platform-teams.md": re.compile(r"(template-update/)?services/orders/.*|\.copier-answers\.yml"),
    "updating.md": re.compile(r"app/(core/(logs|retries)|orders/service)\.py"),
}
# On any page: files of a service in use, and patterns.
USED = re.compile(r"uv\.lock|results\.json|presets/x\.yml|.*\.venv/.*|benchmark-results/.*")


@pytest.mark.parametrize("page", HOW_TO, ids=name)
def test_paths_exist_in_this_repository_or_in_a_service(page: Path, everything: Path, defaults: Path) -> None:
    text = read(page)
    made = {match["path"] for match in FILE.finditer(text)}
    missing = [
        code
        for code in CODE.findall(FENCE.sub("", text))
        if PATH.fullmatch(code)
        and code not in made
        and not USED.fullmatch(code)
        and not (page.name in OWN and OWN[page.name].fullmatch(code))
        and not any((home / code).exists() for home in (ROOT, ROOT / "docs", ROOT / "template", everything, defaults))
    ]
    assert missing == []


def sessions(noxfile: str) -> set[str]:
    """Return the names of the sessions of a noxfile."""
    found = set()
    for function in ast.parse(noxfile).body:
        if isinstance(function, ast.FunctionDef):
            for decorator in function.decorator_list:
                if ast.unparse(decorator).startswith("nox.session"):
                    keywords = {key.arg: key.value for key in getattr(decorator, "keywords", [])}
                    given = keywords.get("name")
                    found.add(str(given.value) if isinstance(given, ast.Constant) else function.name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path, everything: Path) -> None:
    text = read(page)
    known = sessions(read(ROOT / "noxfile.py")) | sessions(read(everything / "noxfile.py"))
    named = set(re.findall(r"nox (?:-s|--session) \"?([\w-]+)", text))
    own = {word for match in FILE.finditer(text) for word in re.findall(r"def (\w+)\(session", match["text"])}
    assert named - known - own == set()

    commands = re.findall(r"^@cli\.command\(\)\ndef (\w+)", read(everything / "app/__main__.py"), re.MULTILINE)
    assert set(re.findall(r"python -m app ([a-z]+)", text)) - set(commands) == set()


@pytest.mark.parametrize("command", ["copy", "update", "recopy", "check-update"])
def test_options_of_copier_exist(command: str) -> None:
    manual = run(sys.executable, "-m", "copier", command, "--help", cwd=ROOT).stdout
    known = set(re.findall(r"(?<![\w-])--?[\w-]+", manual))
    used = {
        option
        for page in PAGES
        for line in re.findall(rf"copier {command} ([^`\n]*)", read(page))
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", line.split(" #")[0].split(" && ")[0])
    }
    assert used - known == set()


def test_the_readme_counts_the_lines_of_every_part(defaults: Path) -> None:
    rows = re.findall(r"^\| (.+) \| ([\d,]+) \| (\d+) \|$", read(ROOT / "README.md"), re.MULTILINE)
    total = 0
    for part, lines, minutes in rows[:-1]:
        homes = [defaults / code for code in CODE.findall(part)]
        modules = [path for home in homes for path in ([home] if home.is_file() else home.rglob("*.py"))]
        count = sum(len(read(path).splitlines()) for path in modules)
        total += count
        assert int(lines.replace(",", "")) == pytest.approx(count, rel=0.1, abs=30), part
        assert int(minutes) == pytest.approx(count / 25, rel=0.1, abs=4), part
    everything = sum(len(read(path).splitlines()) for path in defaults.rglob("*.py"))
    assert total == pytest.approx(everything, rel=0.01)
    assert int(rows[-1][1].replace(",", "")) == pytest.approx(everything, rel=0.1)


# --- Figures ---


def test_the_figures_of_the_readme_are_those_of_the_published_run() -> None:
    quoted, measured = (figures.part(read(page)).splitlines() for page in (figures.README, figures.RESULTS))
    assert quoted == measured, "run `nox -s docs`"


@pytest.mark.parametrize("text", ["", figures.SHORT[0], "b{1} a{0}", "{0} a {1} {0} b {1}"])
def test_a_page_without_one_part_of_figures_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="one part between"):
        figures.part(text.format(*figures.SHORT))


def test_the_figures_of_engines_are_those_of_the_benchmark() -> None:
    columns = ("one worker", "CPU of the worker", "enqueue in a transaction")
    table = read(ROOT / "docs/performance/README.md")
    measured = {
        (side.lower(), figure): median
        for side, figure, median in re.findall(r"^\| (\w+): ([^|,]+)[^|]* \| [^|]+ \| ([\d,.]+) ", table, re.MULTILINE)
        if figure in columns
    }
    page = read(ROOT / "docs/background-jobs.md").partition("## Figures")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `?(\w+).* \| (.+) \| (.+) \| (.+) \|$", page, re.MULTILINE)[1:]
    quoted = {
        (side.lower(), column): cell
        for side, *cells in rows
        for column, cell in zip(columns, cells, strict=True)
        if cell != "–"
    }
    assert quoted == measured


# --- Ownership ---


def test_the_trees_are_those_of_the_template(everything: Path) -> None:
    text = read(ownership.PAGE)
    assert set(ownership.GENERATED.findall(text)) != set()
    assert ownership.page(text, everything) == text, "run `nox -s docs`"


def test_a_directory_of_one_class_is_one_line_and_others_are_opened() -> None:
    classes = {"a/b/1.py": "ours", "a/b/2.py": "ours", "a/c.py": "yours", "d.py": "seam"}
    assert ownership.tree(classes, classes.__getitem__, fold=True) == "⬜ a/\n🟦   b/\n🟩   c.py\n🔶 d.py"
    opened = "⬜ a/\n🟦   b/\n🟦     1.py\n🟦     2.py\n🟩   c.py\n🔶 d.py"
    assert ownership.tree(classes, classes.__getitem__, fold=False) == opened


def test_a_file_without_an_owner_is_named() -> None:
    with pytest.raises(LookupError, match=r"nowhere/file\.py is in no list of copier\.yml"):
        ownership.owner("nowhere/file.py")


# --- Presets ---


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_answers_only_questions_and_is_recorded(preset: Path, template: Path, tmp_path: Path) -> None:
    answers = yaml.safe_load(read(preset))
    # Copier ignores a name that it does not know.
    assert [key for key in answers if key not in QUESTIONS] == []
    assert {key: value for key, value in answers.items() if value != DEFAULTS[key]} != {}
    command = ["copy", "--quiet", "--defaults", "--vcs-ref=HEAD", f"--data-file={preset}", "-d", "instances=3"]
    process = run(*COPIER, *command, template, tmp_path / "service", cwd=tmp_path)
    assert process.returncode == 0, process.stdout
    recorded = yaml.safe_load(read(tmp_path / "service/.copier-answers.yml"))
    assert {key: recorded[key] for key in answers} == answers | {"instances": 3}


def test_presets_differ_from_each_other_and_the_page_names_them_all() -> None:
    assert len(PRESETS) == len({read(preset).split("\n\n")[-1] for preset in PRESETS}) > 2
    page = read(ROOT / "docs/platform-teams.md")
    assert set(re.findall(r"`presets/([\w-]+)\.yml`", page)) == {preset.stem for preset in PRESETS}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_leaves_database_connections_for_every_worker(preset: Path, template: Path, tmp_path: Path) -> None:
    worker = copier.run_copy(
        str(template), tmp_path, yaml.safe_load(read(preset)), vcs_ref="HEAD", defaults=True, quiet=True, pretend=True
    )
    assert worker.answers.combined["planned_pool_size"] >= 2


# --- Transcripts ---


def make_newer(template: Path) -> None:
    """Make the version to which the page updates, with a change of each kind."""
    edit(template / "template/app/core/http/body_limit.py", '"""Refuse ', '"""Newer. Refuse ')
    (template / "template/app/core/telemetry/logs.py").unlink()
    (template / "template/app/core/retries.py").write_text('"""New in 1.1."""\n')
    pyproject = template / "template/pyproject.toml.jinja"
    edit(pyproject, '  "uvloop', '  "aiohttp>=3.13",\n  "uvloop')
    edit(template / "copier.yml", "# --- Expert", "feature_flags:\n  type: bool\n  default: false\n\n# --- Expert")
    readme = template / "template/README.md.jinja"
    readme.write_text(f"{read(readme)}\n## New in 1.1\n", encoding="utf-8")


def make_newest(template: Path) -> None:
    """Make one more version, which asks for trust."""
    migration = '_migrations:\n  - version: v2.0.0\n    command: "exit 0"\n\n_message_after_copy: '
    edit(template / "copier.yml", "_message_after_copy: ", migration)


def edit(path: Path, old: str, new: str) -> None:
    text = read(path)
    assert text.count(old) == 1, f"{path}: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")


def release(template: Path, version: str, change: Callable[[Path], None] = lambda _: None) -> None:
    change(template)
    commit(template, version)
    git(template, "tag", version)


@pytest.fixture
def worked_on(template: Path, tmp_path: Path) -> Path:
    """A service of the older version with edits in files of ours, while a newer version exists."""
    source = with_few_files(template, tmp_path / "template")
    release(source, "v1.0.0")
    service = render(source, tmp_path / "service", {}, "v1.0.0")
    commit(service, "Start from the template")
    edit(service / "app/core/http/body_limit.py", '"""Refuse ', '"""Ours. Refuse ')
    edit(service / "app/core/telemetry/logs.py", "import logging\n", "import logging  # and our own edit\n")
    edit(service / "app/settings.py", "    pass", "    greeting: str")
    commit(service, "A year of work")
    release(source, "v1.1.0", make_newer)
    return service


def transcripts(page: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each command after a `$`, with its heading and its expected lines."""
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        for block in FENCE.finditer(section):
            for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                command, *lines = part.splitlines()
                yield section.split("\n")[0], command, lines


def test_every_message_of_the_page_on_updates_appears(worked_on: Path, tmp_path: Path) -> None:
    source = tmp_path / "template"
    prepare = {"When Copier asks for trust": lambda: release(source, "v2.0.0", make_newest)}
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/copier"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COPIER)} "$@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "COPIER_SETTINGS_PATH": str(tmp_path / "settings.yml"),
        "NO_COLOR": "1",
        **{f"GIT_{role}_{key}": "a@example.com" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
    }
    (tmp_path / "settings.yml").write_text("{}\n")
    count = 0
    for heading, command, expected in transcripts(read(ROOT / "docs/updating.md")):
        prepare.pop(heading, lambda: None)()
        output = run("sh", "-c", command.replace("TEMPLATE", str(source)), cwd=worked_on, **environment).stdout
        remaining = iter(output.splitlines())
        for line in expected:
            assert any(line in candidate for candidate in remaining), f"$ {command}\n{output}\nlacks: {line}"
        if command.startswith("git status") and not expected:
            assert output == "", f"$ {command}\n{output}"
        count += 1
    assert prepare == {}
    assert count > 30


# --- Examples ---


def uv(service: Path, *arguments: str) -> str:
    """Run uv in a service; return its output, and fail if it fails."""
    process = run_uv(service, *arguments, timeout_s=TIMEOUT_S)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def apply(page: str, service: Path) -> None:
    """Apply the examples of a page to the service, in their order."""
    for example in FILE.finditer(page):
        path = service / example["path"]
        if example["kind"] == "diff":
            lines = example["text"].splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            edit(path, old, new)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(example["text"], encoding="utf-8", newline="\n")


@pytest.fixture(scope="module")
def extended(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with everything that the page on ownership adds, and its environment."""
    service = render(template, tmp_path_factory.mktemp("extended"), {})
    apply(read(ownership.PAGE), service)
    uv(service, "sync", "--quiet")
    return service


def test_the_examples_do_what_the_page_says(extended: Path) -> None:
    assert "3 passed" in uv(extended, "run", "pytest", "tests/greetings")


def test_the_examples_are_formatted_and_typed(extended: Path) -> None:
    uv(extended, "run", "nox", "-s", "lint", "types")


def test_coverage_is_of_the_application(extended: Path) -> None:
    output = uv(extended, "run", "nox", "-s", "tests", "--", "tests/greetings", "--cov")
    assert re.search(r"^app/main\.py +\d+ .* 100%$", output, re.MULTILINE)
    assert "tests/" not in output.partition("TOTAL")[0].partition("Stmts")[2]


def test_the_hook_before_a_commit_lints(extended: Path, tmp_path: Path) -> None:
    service = Path(shutil.copytree(extended, tmp_path / "service", symlinks=True))
    commit(service, "Our own")
    variables = {name: value for name, value in uv_environment(oldest()).items() if value is not None}
    variables["PATH"] = f"{Path(uv_program()).parent}{os.pathsep}{os.environ['PATH']}"
    prek = Path(sys.executable).parent / "prek"
    process = run(prek, "run", "--all-files", cwd=service, **variables)
    assert process.returncode == 0, process.stdout
    edit(service / "app/main.py", 'title="', 'title ="')
    process = run(prek, "run", "--all-files", cwd=service, **variables)
    assert process.returncode == 1
    assert "app/main.py" in process.stdout


def test_a_setting_is_read_and_checked(extended: Path) -> None:
    script = "from app.settings import Settings; print(Settings.model_validate({values}).greeting)"
    needed = {"database_url": "postgresql://h/d", "cache_url": "redis://h/0", "cursor_secret": "x" * 32}
    assert uv(extended, "run", "python", "-c", script.format(values=needed)).splitlines()[-1] == "Hello"
    with pytest.raises(AssertionError, match="at least 1 character"):
        uv(extended, "run", "python", "-c", script.format(values=needed | {"greeting": ""}))


def test_a_dependency_is_installed(extended: Path) -> None:
    uv(extended, "run", "python", "-c", "import python_multipart")


def test_a_session_is_listed(extended: Path) -> None:
    assert "* migrations -> Fail when a model has changed without a migration" in uv(extended, "run", "nox", "--list")


def test_a_job_stands_beside_the_others(extended: Path) -> None:
    assert list(yaml.safe_load(read(extended / ".github/workflows/ci.yml"))["jobs"]) == [
        *("checks", "audit", "newer-python")
    ]
    assert list(yaml.safe_load(read(extended / ".gitlab/ci.yml"))) == ["newer-python"]


def test_an_update_takes_the_examples_along(extended: Path, template: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(template, tmp_path / "template"))
    release(source, "v1.0.0")
    service = render(source, tmp_path / "service", {}, "v1.0.0")
    apply(read(ownership.PAGE), service)
    commit(service, "Our own")
    release(source, "v1.1.0", make_newer)
    copier.run_update(service, defaults=True, overwrite=True, quiet=True)
    assert git(service, "diff", "--name-only", "--diff-filter=U") == ""
    assert '  # Add your own below this line.\n  "python-multipart' in read(service / "pyproject.toml")
    assert "app.add_middleware(Release, " in read(service / "app/main.py")


@pytest.mark.parametrize(("deployment", "engine"), [("compose", "rq"), ("kubernetes", "postgres")])
def test_the_page_for_operators_has_every_alert_and_the_present_variables(
    rendered: Callable[[Answers], Path], deployment: str, engine: str
) -> None:
    service = rendered({"deployment": deployment, "background_jobs": engine})
    page = (service / "docs/operations.md").read_text(encoding="utf-8")
    variables = re.findall(
        r"^\| `([A-Z_]+)` \|", (service / "docs/configuration.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    rules = "".join(path.read_text(encoding="utf-8") for path in (service / "deploy").rglob("rules.y*ml"))
    used = set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=\w+)?`", page))
    alerts = re.findall(r"^\| (`[A-Z]\w+`(?:, `[A-Z]\w+`)*) \| \w+ .* \| .* \|$", page, re.MULTILINE)

    assert used <= set(variables)
    assert sorted(re.findall(r"`(\w+)`", " ".join(alerts))) == sorted(re.findall(r"- alert: (\w+)", rules))
