"""docs/streams.md says what holds: the order of each projection, and the test in which each fault was seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from api.services import projections
from tests.test_threat_model import functions_of

DOCUMENT: Final = (Path(__file__).parent.parent / "docs" / "streams.md").read_text(encoding="utf-8")
NAMED: Final = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", DOCUMENT)))
FAULTS: Final = ("tests/test_streams_faults.py", "tests/test_streams_poison.py")
SAID: Final = {"stream": ("of each stream", "yes"), "total": ("total", "no: one leads")}


def section(title: str) -> str:
    return DOCUMENT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_order_of_every_projection_is_documented() -> None:
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \| ([^|]+) \|$", section("What is guaranteed, per projection"), re.MULTILINE)
    expected = {projection.name: SAID[projection.ordering] for projection in projections()}
    assert {name: (order, shared) for name, order, shared in rows if name != "projection"} == expected


@pytest.mark.parametrize(("name", "test"), NAMED, ids=lambda part: part)
def test_a_named_test_is_there(name: str, test: str) -> None:
    assert test in functions_of(name)


def test_no_fault_is_left_unsaid() -> None:
    """Every test of faults stands on the page, and every line of the table names one."""
    assert {(name, test) for name in FAULTS for test in functions_of(name)} <= set(NAMED)
    lines = [line for line in section("What happens when ... dies").splitlines() if line.startswith("| ")]
    assert len(lines) == len(set(re.findall(r"`tests/\w+\.py::\w+`", "\n".join(lines)))) + 1
