"""Rename questions and choices in the answers of a service: `edit_answers.py EDIT [EDIT ...]`, stage before.

  rename OLD NEW           the question OLD is called NEW
  value QUESTION OLD NEW   the answer OLD to QUESTION, by its name after the edits before this one, is called NEW

Copier reads the answers again afterwards. The rest of the file does not change, and a second run changes nothing.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import yaml
from project import fail, git, read_answers, records, run, say

SIZES = {"rename": 3, "value": 4}


def split(words: list[str]) -> list[list[str]]:
    """Split a command line into its edits."""
    edits = []
    while words:
        size = SIZES.get(words[0])
        if size is None or len(words) < size:
            fail(f"`{' '.join(words)}` is neither `rename OLD NEW` nor `value QUESTION OLD NEW`")
        for name in words[1:size] if words[0] == "rename" else words[1:2]:
            if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
                fail(f"{name} is not the name of a question")
        edits.append(words[:size])
        words = words[size:]
    return edits


def renamed(answer: Any, old: str, new: str) -> Any:
    """Return the answer after `value`: text compares as text, other values as YAML; a list compares item by item."""
    if isinstance(answer, list):
        return [renamed(item, old, new) for item in answer]
    if isinstance(answer, str):
        return new if answer == old else answer
    known = yaml.safe_load(old)
    # In Python True equals 1.
    return yaml.safe_load(new) if type(known) is type(answer) and known == answer else answer


def edit(text: str, file: str, change: list[str]) -> str:
    """Return the text of an answers file after one edit; only the renamed characters change."""
    answers = read_answers(text.encode(), file)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    nodes = {key.value: (key, value) for key, value in root.value}
    kind, question, *names = change
    if question not in answers:
        return text
    key, value = nodes[question]
    before = answers[question]
    if kind == "rename":
        if names[0] in answers:
            fail(f"{file} answers both {question} and {names[0]}: delete the wrong line, commit, and update again")
        expected = {names[0] if known == question else known: answer for known, answer in answers.items()}
        spans = [(key, names[0])]
    else:
        after = renamed(before, *names)
        expected = {**answers, question: after}
        items = zip(value.value, before, after, strict=True) if isinstance(before, list) else [(value, before, after)]
        spans = [(node, json.dumps(new, ensure_ascii=False)) for node, old, new in items if new is not old]
    for node, replacement in reversed(spans):
        text = text[: node.start_mark.index] + replacement + text[node.end_mark.index :]
    if list(read_answers(text.encode(), file).items()) != list(expected.items()):
        fail(f"{file} cannot be edited by `{' '.join(change)}`: edit it by hand, commit, and update again")
    return text


def main(answers_file: str, words: list[str]) -> None:
    edits = split(words)
    path = Path(answers_file)
    if not path.is_file():
        fail(f"{answers_file} is missing: restore it from an older commit, or use `copier update -a FILE`")
    tracked = git("rev-parse", "--show-prefix").decode().strip() + answers_file
    if any(record[3:] != tracked for record in records(git("status", "--porcelain", "-z", "--", "."))):
        fail("the service has changes that are not committed: commit or stash them, and update again")
    # Bytes, so that the ends of the lines stay.
    original = path.read_bytes()
    read_answers(original, answers_file)
    text = original.decode()
    for change in edits:
        text = edit(text, answers_file, change)
    if text.encode() != original:
        path.write_bytes(text.encode())
        say(f"Renamed in {answers_file}, as in the template:", [" ".join(change) for change in edits])


if __name__ == "__main__":
    run(main, "before", __doc__)
