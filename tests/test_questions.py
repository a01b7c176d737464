"""The questionnaire: its questions, its refusals, and the effect of its answers on the rendered service."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import copier
import pytest
import yaml

from tests.quick_copier import COPIER
from tests.rendering import ROOT, render
from tests.variants import DEFAULTS, QUESTIONS, TEXT_QUESTIONS, Answer, Answers

ANSWERS_FILE = ".copier-answers.yml"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
CONFIGURED: dict[str, dict[str, Any]] = {key: value for key, value in CONFIG.items() if not key.startswith("_")}

ASKED = [
    *("project_name", "description", "cache_backend", "background_jobs", "pagination", "cpu_cores"),
    *("auth", "deployment", "ci", "example"),
]
EXPERT = ["project_slug", "workers_per_core", "db_max_connections", "instances", "read_replica", "rate_limits"]
EXPERT += ["idempotency", "static_files", "metrics", "tracing", "http_client", "outbox"]
RECORDED = ASKED + EXPERT
# An engine that has a question of its own.
BROKER: Answers = {"background_jobs": "rq"}

# The sentence for each bad value; some sentences are Copier's own.
REFUSALS: dict[str, dict[str, list[str]]] = {
    "project_name": {
        "Begin with a letter.": ["", "2 Fast"],
        "Use at most 50 characters.": ["A" * 51],
        "Use letters, digits, space . - _.": ["Größe", 'My "Service"', "Trailing\n"],
    },
    "description": {
        "Use 1 to 80 characters, one line.": [
            *("", "d" * 81, "Two\nlines", "Two\x85lines", "Two\u2028lines", "Trailing\n")
        ],
        'Leave out " and \\.': ['Says "hello"', r"C:\new"],
    },
    "cache_backend": {"Invalid choice for 'cache_backend': 'redis' is not in": ["redis"]},
    "background_jobs": {"Invalid choice for 'background_jobs': 'cron' is not in": ["cron"]},
    "pagination": {"Invalid choice for 'pagination': 'pages' is not in": ["pages"]},
    "cpu_cores": {
        "Use 0 to detect them, or 1 to 256.": ["-1", "257"],
        "invalid literal for int() with base 10: 'two'": ["two"],
    },
    "auth": {"Invalid choice for 'auth': 'basic' is not in": ["basic"]},
    "deployment": {"Invalid choice for 'deployment': 'heroku' is not in": ["heroku"]},
    "ci": {"Invalid choice for 'ci': 'jenkins' is not in": ["jenkins"]},
    "example": {"Invalid choice for 'example': 'maybe' is not in": ["maybe"]},
    "project_slug": {
        "Begin with a-z.": ["", "My-Service", "1st"],
        "Use at most 50 characters.": ["a" * 51],
        "Use a-z, 0-9; dashes between.": ["my_service", "trailing\n", "ends-"],
    },
    "workers_per_core": {"Use 0.1 to 8.": ["0", "8.1", "nan"]},
    "db_max_connections": {"Use 10 to 100000.": ["9", "100001"]},
    "instances": {"Use 1 to 1000.": ["0", "1001"]},
    "read_replica": {"Invalid choice for 'read_replica': 'maybe' is not in": ["maybe"]},
    "rate_limits": {"Invalid choice for 'rate_limits': 'maybe' is not in": ["maybe"]},
    "idempotency": {"Invalid choice for 'idempotency': 'maybe' is not in": ["maybe"]},
    "static_files": {"Invalid choice for 'static_files': 'maybe' is not in": ["maybe"]},
    "metrics": {"Invalid choice for 'metrics': 'statsd' is not in": ["statsd"]},
    "tracing": {"Invalid choice for 'tracing': 'maybe' is not in": ["maybe"]},
    "http_client": {"Invalid choice for 'http_client': 'maybe' is not in": ["maybe"]},
    "outbox": {"Invalid choice for 'outbox': 'maybe' is not in": ["maybe"]},
}
BAD_ANSWERS = [
    (question, value, sentence)
    for question, sentences in REFUSALS.items()
    for sentence, values in sentences.items()
    for value in values
]

# One other answer for free text; the other questions have theirs in tests/variants.py.
OTHER_TEXT: Answers = {"project_name": "Other Name", "description": "Other words", "project_slug": "other-slug"}
OTHER_ANSWERS: list[tuple[str, Answer]] = [
    *((question, answer) for question, answers in QUESTIONS.items() for answer in answers[1:]),
    *OTHER_TEXT.items(),
]

# cpu_cores, workers_per_core, instances and background_jobs, in the order of `capacity_answers`.
LOADS = [
    (1, 0.1, 3, "celery"),
    (2, 1.5, 2, "celery"),
    (4, 2.0, 1, "background_tasks"),
    (8, 1.1, 7, "rq"),
    (64, 0.5, 20, "background_tasks"),
    (2, 1.0, 1, "postgres"),
    (1, 1.0, 30, "postgres"),
]


@pytest.fixture(scope="module")
def service(rendered: Callable[[Answers], Path]) -> Path:
    """A service with the default answers; read only."""
    return rendered({})


def files(service: Path) -> dict[str, bytes]:
    return {path.relative_to(service).as_posix(): path.read_bytes() for path in service.rglob("*") if path.is_file()}


def answers_of(service: Path) -> dict[str, Any]:
    answers: dict[str, Any] = yaml.safe_load((service / ANSWERS_FILE).read_text(encoding="utf-8"))
    return answers


def messages(validator: str) -> list[str]:
    """Return the possible messages of a validator: the texts between its statements."""
    texts = (re.sub(r"\s+", " ", text).strip() for text in re.split(r"\{%.*?%\}", validator, flags=re.DOTALL))
    return [text for text in texts if text]


def copier_copy(template: Path, destination: Path, *answers: str) -> subprocess.CompletedProcess[str]:
    """Run `copier copy --defaults` as a person would, each answer written as `question=value`."""
    data = [argument for answer in answers for argument in ("--data", answer)]
    return subprocess.run(
        [*COPIER, "copy", "--defaults", "--vcs-ref=HEAD", *data, str(template), destination],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )


def ask_only(template: Path, destination: Path, answers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have Copier check the answers and print its messages, but write no file; returns all answers."""
    worker = copier.run_copy(
        str(template), destination, data=dict(answers), vcs_ref="HEAD", defaults=True, unsafe=False, exclude=["*"]
    )
    return worker.answers.combined


# --- Questions ---


def test_each_question_is_asked_or_for_experts_or_derived() -> None:
    derived = [name for name, question in CONFIGURED.items() if question.get("when") is False]
    expert = [name for name, question in CONFIGURED.items() if question.get("ask") is False]
    asked = [name for name in CONFIGURED if name not in derived + expert]
    assert asked == ASKED
    assert expert == EXPERT
    assert derived == [
        *("planned_workers", "planned_cores", "planned_instances", "planned_jobs", "planned_connections"),
        *("planned_pool_size", "update_command"),
    ]


def test_the_variants_know_every_question_with_its_choices_and_its_default() -> None:
    assert sorted([*QUESTIONS, *TEXT_QUESTIONS]) == sorted(RECORDED)
    for name, answers in QUESTIONS.items():
        question = CONFIGURED[name]
        choices = question["choices"].values() if "choices" in question else answers
        assert answers == tuple(choices), name
        # Copier takes any word for yes if the type is `bool`.
        kind = question["type"].replace("yaml", "bool")
        assert {type(answer).__name__ for answer in answers} == {kind}, name
        assert DEFAULTS[name] == question["default"], name


def test_free_text_is_what_the_variants_take_for_free_text() -> None:
    free_text = {name for name in RECORDED if CONFIGURED[name]["type"] == "str" and "choices" not in CONFIGURED[name]}
    assert free_text == set(TEXT_QUESTIONS) == set(OTHER_TEXT)


@pytest.mark.parametrize("name", RECORDED)
def test_a_question_explains_itself_in_one_short_line(name: str) -> None:
    # Copier cuts longer lines at the width of the terminal.
    assert re.fullmatch(r"[A-Z].{20,67}[.?]", CONFIGURED[name]["help"])
    assert [choice for choice in CONFIGURED[name].get("choices", ()) if len(choice) >= 70] == []


@pytest.mark.parametrize("name", RECORDED)
def test_a_question_that_takes_any_text_or_number_refuses_in_plain_sentences(name: str) -> None:
    question = CONFIGURED[name]
    if "validator" not in question:
        assert "choices" in question
        return
    sentences = messages(question["validator"])
    assert sentences
    for sentence in sentences:
        assert re.fullmatch(r"[A-Z].*\.", sentence)
        # Copier prints this at the bottom, and cuts it at the width of the terminal.
        assert len(f"Validation error for question '{name}': {sentence}") < 80


def test_only_answers_are_recorded_and_none_that_is_derived(rendered: Callable[[Answers], Path], service: Path) -> None:
    recorded = {"_commit", "_src_path", *RECORDED}
    assert set(answers_of(rendered(BROKER))) == recorded
    assert set(answers_of(service)) == recorded - {"outbox"}


@pytest.mark.parametrize(("question", "answer"), OTHER_ANSWERS)
def test_an_answer_changes_more_than_its_record(
    rendered: Callable[[Answers], Path], service: Path, question: str, answer: Answer
) -> None:
    base = rendered(BROKER) if question == "outbox" else service
    # The slug follows the name: it would hide that nothing else does.
    fixed: Answers = {"project_slug": "my-service"} if question == "project_name" else {}
    other = files(rendered((BROKER if question == "outbox" else fixed) | {question: answer}))
    default = files(base)
    changed = {path for path in default.keys() | other.keys() if default.get(path) != other.get(path)}
    assert changed - {ANSWERS_FILE}


# --- Good and bad answers ---


def test_every_question_has_a_bad_answer_in_these_tests() -> None:
    assert set(REFUSALS) == set(RECORDED)


@pytest.mark.parametrize(
    ("question", "value", "sentence"),
    [pytest.param(*row, id=ascii(f"{row[0]}={row[1]:.20}")) for row in BAD_ANSWERS],
)
def test_a_bad_answer_is_refused_with_a_sentence_and_nothing_is_rendered(
    template: Path, tmp_path: Path, question: str, value: str, sentence: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as refusal:
        render(template, tmp_path / "service", BROKER | {question: value})
    assert sentence in str(refusal.value)
    assert not (tmp_path / "service").exists()


def test_answers_that_the_database_cannot_serve_are_announced_with_the_sum(template: Path, tmp_path: Path) -> None:
    # Not refused: a validator that looks at other answers would make an update drop an answer in silence.
    process = copier_copy(
        template, tmp_path / "service", "cpu_cores=4", "background_jobs=celery", "db_max_connections=50", "instances=4"
    )
    assert process.returncode == 0
    assert (
        "ATTENTION: these answers need at least 53 database connections, and db_max_connections is 50:\n"
        "the service will refuse to start."
    ) in process.stderr


@pytest.mark.parametrize(
    "answers",
    [
        {"project_name": "A", "description": "d"},
        {"project_name": "A" * 50, "description": "d" * 80},
        {"project_name": "Z9 _.- trailing dots...", "description": "It's <b>100 %</b> & 'quoted' $HOME `ls` # not"},
        {"project_name": "Jinja", "description": "{{ 7 * 7 }} {% if %} {# gone? #} {%- raw -%} }} %}"},
        {"project_name": "Unicode", "description": "Größe, 日本語, naïve — ✓ 🚀", "project_slug": "a"},
        {"project_name": "Slug", "description": " spaces around ", "project_slug": "a1--b" + "2" * 45},
        {"project_name": "null", "description": "yes", "project_slug": "true"},
    ],
    ids=lambda answers: answers["project_name"][:8],
)
def test_free_text_comes_out_as_it_was_written(template: Path, tmp_path: Path, answers: dict[str, str]) -> None:
    service = render(template, tmp_path, answers)
    recorded = answers_of(service)
    assert {key: recorded[key] for key in answers} == answers

    project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == f"{recorded['project_slug']}-app"
    assert project["description"] == answers["description"]

    module = ast.parse((service / "app/main.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
    keywords = {keyword.arg: keyword.value for call in calls for keyword in call.keywords}
    assert ast.literal_eval(keywords["title"]) == answers["project_name"]
    assert ast.literal_eval(keywords["description"]) == answers["description"]
    assert (service / "README.md").read_text(encoding="utf-8").startswith(f"# {answers['project_name']}\n")


def test_the_readme_shows_the_description_as_its_help_says(service: Path) -> None:
    assert "README" in CONFIGURED["description"]["help"]
    assert CONFIGURED["description"]["default"] in (service / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Every Thing 2.0", "every-thing-2-0"), ("A", "a"), ("Z--9 _.-", "z-9")],
)
def test_the_slug_follows_from_the_name(template: Path, tmp_path: Path, name: str, slug: str) -> None:
    assert ask_only(template, tmp_path / "service", {"project_name": name})["project_slug"] == slug


# --- The questionnaire in a terminal ---


class Questionnaire:
    """`copier copy` in a pseudo-terminal; every wait is bounded."""

    def __init__(self, template: Path, destination: Path) -> None:
        import pexpect  # there is none on Windows

        self._end = pexpect.EOF
        self._terminal = pexpect.spawn(
            COPIER[0],
            [*COPIER[1:], "copy", "--vcs-ref=HEAD", str(template), str(destination)],
            # This terminal does not answer when prompt_toolkit asks for the position of its cursor.
            env=os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PYTHONIOENCODING": "utf-8"},
            dimensions=(50, 80),
            encoding="utf-8",
            timeout=20,
        )

    def sees(self, text: str) -> None:
        self._terminal.expect_exact(text)

    def presses(self, keys: str) -> None:
        self._terminal.send(keys)

    def writes(self, text: str) -> None:
        """Replace the text of the line (at first the default), and press enter."""
        self.presses(f"\N{NAK}{text}\r")

    def sees_the_end(self) -> str:
        """Wait until Copier ends; return its output since the last wait."""
        self._terminal.expect(self._end)
        self._terminal.close()
        assert self._terminal.exitstatus == 0
        return str(self._terminal.before).replace("\r\n", "\n")

    def close(self) -> None:
        self._terminal.close(force=True)


@pytest.fixture
def questionnaire(template: Path, tmp_path: Path) -> Any:
    if sys.platform == "win32":
        pytest.skip("needs a pseudo-terminal")
    questionnaire = Questionnaire(template, tmp_path / "service")
    yield questionnaire
    questionnaire.close()


DOWN = "\x1b[B"


def test_a_person_answers_the_questionnaire(questionnaire: Questionnaire, tmp_path: Path) -> None:
    questionnaire.sees("What is the service called?")
    questionnaire.writes("Größe")
    questionnaire.sees("Use letters, digits, space . - _.")
    questionnaire.writes("Orders")
    questionnaire.sees("What does it do, in one sentence?")
    questionnaire.writes("Takes & tracks orders")
    questionnaire.sees("Where are cached responses stored?")
    questionnaire.presses(f"{DOWN}\r")
    questionnaire.sees("Which engine runs background jobs?")
    questionnaire.presses(f"{DOWN}{DOWN}\r")
    questionnaire.sees("How do lists return their pages?")
    questionnaire.presses("\r")
    questionnaire.sees("How many CPU cores has one instance?")
    questionnaire.writes("4")
    questionnaire.sees("How does the service know its callers?")
    questionnaire.presses("\r")
    questionnaire.sees("Where does the service run?")
    questionnaire.presses(f"{DOWN}\r")
    questionnaire.sees("Which CI runs the checks")
    questionnaire.presses(f"{DOWN}\r")
    questionnaire.sees("Add an example domain?")
    questionnaire.presses(f"{DOWN}\r")
    message = questionnaire.sees_the_end()

    service = tmp_path / "service"
    answers = answers_of(service)
    assert {key: answers[key] for key in RECORDED} == {
        "project_name": "Orders",
        "description": "Takes & tracks orders",
        "cache_backend": "memory",
        "background_jobs": "celery",
        "pagination": "cursor",
        "cpu_cores": 4,
        "auth": "none",
        "deployment": "compose",
        "ci": "gitlab",
        "example": False,
        "project_slug": "orders",
        "workers_per_core": 1.0,
        "db_max_connections": 100,
        "instances": 1,
        "read_replica": False,
        "rate_limits": False,
        "idempotency": False,
        "static_files": False,
        "metrics": "prometheus",
        "tracing": False,
        "http_client": True,
        "outbox": True,
    }
    assert f"Orders is ready in {service}\n" in message
    assert f"  cd {service}\n  git init && git add --all && git commit" in message
    assert "  uv run python -m dev\n" in message
    assert "Capacity: 1 x 4 workers x 10 database connections, of 100.\n" in message


def test_more_cores_than_the_database_can_serve_lose_no_answer(questionnaire: Questionnaire) -> None:
    questionnaire.sees("What is the service called?")
    questionnaire.presses("\r")
    questionnaire.sees("What does it do, in one sentence?")
    questionnaire.presses("\r")
    questionnaire.sees("Where are cached responses stored?")
    questionnaire.presses("\r")
    questionnaire.sees("Which engine runs background jobs?")
    questionnaire.presses("\r")
    questionnaire.sees("How do lists return their pages?")
    questionnaire.presses("\r")
    questionnaire.sees("How many CPU cores has one instance?")
    questionnaire.writes("128")
    questionnaire.sees("How does the service know its callers?")
    questionnaire.presses("\r")
    questionnaire.sees("Where does the service run?")
    questionnaire.presses("\r")
    questionnaire.sees("Which CI runs the checks")
    questionnaire.presses("\r")
    questionnaire.sees("Add an example domain?")
    questionnaire.presses("\r")
    assert "ATTENTION: these answers need at least 135 database connections" in questionnaire.sees_the_end()


# --- The capacity line ---


@pytest.fixture(scope="module")
def capacity(rendered: Callable[[Answers], Path], tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The rendered service's own model, which imports nothing but the standard library."""
    service = rendered({"background_jobs": "celery"})
    # A copy, because an import writes bytecode beside the file, and the rendered service is shared.
    source = shutil.copy(service / "app/core/operations/capacity.py", tmp_path_factory.mktemp("capacity"))
    spec = importlib.util.spec_from_file_location("rendered_capacity", source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def capacity_answers(load: tuple[int, float, int, str], connections: int) -> Answers:
    cores, workers_per_core, instances, jobs = load
    return {
        "cpu_cores": cores,
        "workers_per_core": workers_per_core,
        "instances": instances,
        "background_jobs": jobs,
        "db_max_connections": connections,
    }


def plan(capacity: ModuleType, load: tuple[int, float, int, str], connections: int) -> Any:
    """Return the plan of the service at start-up, on a machine with enough memory.

    Raises:
        ValueError: `CapacityError`, when the connections do not suffice.
    """
    cores, workers_per_core, instances, jobs = load
    return capacity.make_plan(
        capacity.Limits(
            cores=cores,
            memory_bytes=None,
            workers_per_core=workers_per_core,
            instances=instances,
            max_connections=connections,
            jobs={"background_tasks": None, "postgres": 1}.get(jobs, 0),
            jobs_at_once=8 if jobs == "postgres" else 0,
        )
    )


def least_connections(capacity: ModuleType, load: tuple[int, float, int, str]) -> int:
    """The fewest connections with which the service starts; one less stops it."""

    def suffices(connections: int) -> bool:
        try:
            return bool(plan(capacity, load, connections))
        except capacity.CapacityError:
            return False

    return next(connections for connections in range(100_000) if suffices(connections))


@pytest.mark.parametrize(
    ("load", "spare"), [*zip(LOADS, [0, 37, 5000, 60, 0, 9, 90], strict=True), (LOADS[0], 5000)], ids=str
)
def test_the_capacity_line_says_what_the_service_will_plan(
    template: Path,
    tmp_path: Path,
    capacity: ModuleType,
    capsys: pytest.CaptureFixture[str],
    load: tuple[int, float, int, str],
    spare: int,
) -> None:
    connections = max(10, least_connections(capacity, load) + spare)
    ask_only(template, tmp_path / "service", capacity_answers(load, connections))
    planned = plan(capacity, load, connections)
    assert (
        f"Capacity: {load[2]} x {planned.workers} workers x {planned.pool_size} database connections, "
        f"of {connections}.\n"
    ) in capsys.readouterr().err


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_a_service_that_would_not_start_is_announced(
    template: Path,
    tmp_path: Path,
    capacity: ModuleType,
    capsys: pytest.CaptureFixture[str],
    load: tuple[int, float, int, str],
) -> None:
    least = least_connections(capacity, load)
    if least <= 10:
        least, load = 21, (4, 1.0, 4, "background_tasks")
    ask_only(template, tmp_path / "service", capacity_answers(load, least - 1))
    assert (
        f"ATTENTION: these answers need at least {least} database connections, and db_max_connections is {least - 1}:"
    ) in capsys.readouterr().err


def test_without_a_number_of_cores_the_capacity_line_promises_no_numbers(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask_only(template, tmp_path / "service", {"db_max_connections": 80})
    message = capsys.readouterr().err
    assert "Capacity: one worker for each core, found at start-up; their pools share 80 database" in message
