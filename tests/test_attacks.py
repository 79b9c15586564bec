"""docs/attacks.md names every attack that is carried out here, and each test it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.test_threat_model import functions_of

ROOT: Final = Path(__file__).parent.parent
DOCUMENT: Final = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
NAMED: Final = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", DOCUMENT)))
ATTACKED: Final = ["tests/test_tampering.py", *(f"tests/{path.name}" for path in sorted((ROOT / "tests").glob("test_attacks_*.py")))]


def rows() -> list[list[str]]:
    """The cells of every table's rows, but for its head."""
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("| ") and not line.startswith("| attack ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_attack_says_who_what_finds_it_and_which_test_carries_it_out() -> None:
    assert rows()
    for row in rows():
        assert len(row) == 4, row
        assert all(row[:3]), row
        assert re.fullmatch(r"`tests/\w+\.py::\w+`(, `tests/\w+\.py::\w+`)*", row[3]), row


@pytest.mark.parametrize(("name", "test"), NAMED, ids=lambda part: part)
def test_a_named_test_is_there(name: str, test: str) -> None:
    assert (ROOT / name).is_file(), name
    assert test in functions_of(name)


def test_no_attack_is_left_unsaid() -> None:
    carried_out = {(name, test) for name in ATTACKED for test in functions_of(name)}
    assert carried_out - set(NAMED) == set()


def test_whatever_looks_like_a_test_on_the_page_is_checked() -> None:
    """A name that the pattern above misses would be believed without a look."""
    assert len(re.findall(r"::", DOCUMENT)) == len(re.findall(r"`tests/\w+\.py::\w+`", DOCUMENT))
