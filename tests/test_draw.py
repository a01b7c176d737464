"""Any accepted answers render clean: complete sets of answers, drawn at random from all that the validators accept."""

import random
import re
import string
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.rendering import render
from tests.selection import thorough
from tests.variants import QUESTIONS, TEXT_QUESTIONS, WITH_BROKER, Answers

DRAWS = 400
# CI draws a tenth, in two tests, which run side by side.
BATCH = 20
SLUGS = ["fastapi", "redis", "celery", "app", "a", "test", "true"]
NAME_LETTERS = string.ascii_letters + string.digits + " _.-"
# Typographic marks, wide letters, an emoji, letters that combine, and marks of other languages.
MARKS = (
    "’‘“”–—×…·½€ß\N{NO-BREAK SPACE}\N{ZERO WIDTH SPACE}日本語注文、。ｱ가🚀\N{COMBINING ACUTE ACCENT}е٣{}%#$&<>`'*_|[]~"
)


def draw(number: int) -> Answers:
    """Return the complete answers of this number: short and long, small and large."""
    chance = random.Random(number)  # noqa: S311 - the same in every run

    def text(letters: str, least: int, most: int) -> str:
        return "".join(chance.choices(letters, k=chance.choice([least, most, chance.randint(least, most)])))

    answers: Answers = {question: chance.choice(choices) for question, choices in QUESTIONS.items()}
    slug = text(string.ascii_lowercase + string.digits + "-", 0, 48)
    name = chance.choice(string.ascii_letters) + text(NAME_LETTERS, 0, 49)
    return answers | {
        "project_name": name,
        "description": text(MARKS + string.ascii_letters + " " * 8, 1, 80),
        "project_slug": chance.choice([*SLUGS, f"s{slug}e", f"s{slug}e", f"s{slug}e"]),
        "cpu_cores": chance.choice([0, 1, chance.randint(0, 256), 256]),
        "workers_per_core": chance.choice([0.1, 1, chance.uniform(0.1, 8), 8]),
        "db_max_connections": chance.choice([10, chance.randint(10, 100_000), 100_000]),
        "instances": chance.choice([1, chance.randint(1, 1000), 1000]),
    }


@pytest.mark.parametrize("first", thorough(range(0, DRAWS, BATCH), but=(0, BATCH)))
def test_any_accepted_answers_render_clean(template: Path, tmp_path: Path, first: int) -> None:
    for number in range(first, first + BATCH):
        answers = draw(number)
        assert answers.keys() == {*QUESTIONS, *TEXT_QUESTIONS}
        if answers["background_jobs"] not in WITH_BROKER:
            del answers["outbox"]
        service = render(template, tmp_path / f"draw-{number}", answers)
        recorded = yaml.safe_load((service / ".copier-answers.yml").read_text(encoding="utf-8"))
        assert answers.items() <= recorded.items()

        project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
        packages = [
            re.split(r"[^\w-]", package)[0]
            for group in (project["project"]["dependencies"], project["dependency-groups"]["dev"])
            for package in group
        ]
        assert project["project"]["name"] not in packages

    # Each service has settings of its own, which ruff finds beside its files.
    for command in (["check"], ["format", "--check"]):
        process = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--quiet", "--no-cache", tmp_path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stdout + process.stderr
