"""The list of variants is complete, and an answer that was not given leaves no trace."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.variants import DEFAULTS, QUESTIONS, TRACES, VARIANTS, Answers, all_pairs, pairs


def test_every_pair_of_answers_occurs_in_a_variant() -> None:
    covered = set().union(*(pairs(answers) for answers in VARIANTS.values()))

    assert [sorted(map(str, pair)) for pair in all_pairs() - covered] == []
    assert covered <= all_pairs()


def test_every_answer_of_every_choice_has_traces_to_look_for() -> None:
    choices = {
        (question, answer)
        for question, answers in QUESTIONS.items()
        for answer in answers
        if isinstance(answer, str | bool) and answer not in ("none", False)
    }
    told_apart = {
        (question, answer)
        for question, answer in choices
        for allowed in TRACES.values()
        for base in (DEFAULTS, DEFAULTS | {"background_jobs": "celery"})
        if allowed(base | {question: answer})
        and not all(allowed(base | {question: other}) for other in QUESTIONS[question])
    }

    assert told_apart == choices


@pytest.fixture(scope="module", params=VARIANTS)
def answers(request: pytest.FixtureRequest) -> Answers:
    # The texts of the users are theirs: only the answers that have traces count here.
    return {key: value for key, value in (DEFAULTS | VARIANTS[request.param]).items() if key in QUESTIONS}


@pytest.fixture(scope="module")
def service(answers: Answers, rendered: Callable[[Answers], Path]) -> Path:
    return rendered(answers)


def test_answers_that_were_not_given_leave_no_trace(service: Path, answers: Answers) -> None:
    absent = [re.compile(trace, re.IGNORECASE) for trace, allowed in TRACES.items() if not allowed(answers)]

    assert [found for pattern in absent for found in _traces(service, pattern.search)] == []


def test_answers_that_were_given_leave_their_traces(service: Path, answers: Answers) -> None:
    present = [re.compile(trace, re.IGNORECASE) for trace, allowed in TRACES.items() if allowed(answers)]

    assert [pattern.pattern for pattern in present if not any(_traces(service, pattern.search))] == []


@pytest.mark.parametrize(("page", "count"), [("AGENTS.md", 10), ("ARCHITECTURE.md", 25)])
def test_a_page_about_the_code_names_only_files_that_exist(service: Path, page: str, count: int) -> None:
    text = (service / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`(\.?[\w-]+/[\w./-]*|\.?[\w.-]+\.(?:example|md|py|toml))`", text))

    assert len(named) > count
    # A page may leave out `app/core/`.
    homes = (service, service / "app/core")
    assert [name for name in named if not any((home / name).exists() for home in homes)] == []


@pytest.mark.parametrize("page", ["AGENTS.md", "ARCHITECTURE.md"])
def test_a_page_about_the_code_names_only_what_the_code_defines(service: Path, page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (service / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([A-Za-z_]\w*)`", text))
    code = "\n".join(path.read_text(encoding="utf-8") for path in service.rglob("*.py"))
    defined = set(re.findall(r"^\s*(?:async def|def|class|from|import) (\w+)|^(\w+)(?::.+)? = ", code, re.MULTILINE))

    assert len(named) > 3
    assert named - {name for pair in defined for name in pair} == set()
    # "`database/sessions.py` (`_end`": in that file.
    for path, name in re.findall(r"`([\w/]+\.py)` \(`(\w+)`", text):
        assert f"def {name}(" in (service / "app/core" / path).read_text(encoding="utf-8"), (
            f"{page}: {path} has no {name}"
        )


def _traces(service: Path, search: Callable[[str], re.Match[str] | None]) -> Iterator[str]:
    for path in sorted(service.rglob("*")):
        name = path.relative_to(service).as_posix()
        # It records every answer, and is Copier's.
        if not path.is_file() or name == ".copier-answers.yml":
            continue
        if search(name):
            yield name
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if search(line):
                yield f"{name}:{number}: {line.strip()}"
