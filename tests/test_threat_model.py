"""docs/threat-model.md answers every threat, and each test it names as an answer is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
DOCUMENT: Final = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED: Final = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", DOCUMENT)))
THREATS: Final = (
    "Unauthorized data access",
    "PII exposure",
    "SQL injection",
    "Malicious prompts",
    "Approval bypass",
    "Data exfiltration",
    "Insider threat",
    "Snapshot tampering",
    "Policy circumvention",
)


@cache
def functions_of(name: str) -> frozenset[str]:
    """The tests of a file, those of its classes too."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_threat_is_answered_by_tests_and_says_what_is_open() -> None:
    assert tuple(sections()) == THREATS
    for threat, section in sections().items():
        assert re.search(r"^- `tests/", section, re.MULTILINE), threat
        assert "**Open.**" in section, threat


@pytest.mark.parametrize(("name", "test"), NAMED, ids=lambda part: part)
def test_a_named_test_is_there(name: str, test: str) -> None:
    assert (ROOT / name).is_file(), name
    assert test in functions_of(name)


def test_no_attack_is_left_unsaid() -> None:
    """What tests/test_threats.py attacks stands on the page."""
    assert functions_of("tests/test_threats.py") - {test for name, test in NAMED if name == "tests/test_threats.py"} == set()


def test_whatever_looks_like_a_test_on_the_page_is_checked() -> None:
    """A name that the pattern above misses would be believed without a look."""
    assert len(re.findall(r"::", DOCUMENT)) == len(re.findall(r"`tests/\w+\.py::\w+`", DOCUMENT))
