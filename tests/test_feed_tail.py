"""What feeds are made of, without any I/O: the one order, the tail that all share, and filters that agree with the lists."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.budgets import BudgetClosed
from domain.kernel import Recorded, Refused
from infra.row_filters import row_filter
from projections.approvals import approvals
from projections.exports import exports
from streams.tail import Entry, InOrder, Tail

pytestmark = pytest.mark.anyio
SOMEBODY = UUID("01990000-0000-7000-8000-000000000001")
AT = datetime(2026, 3, 3, 14, 0, tzinfo=UTC)


def an_entry(position: int) -> Entry:
    event = BudgetClosed(budget_id="lake")
    return Entry(position, Recorded(position, "acme", "budget:lake", position, SOMEBODY, AT, "usr-ana", SOMEBODY, None, event), "{}")


@given(st.data())
def test_whatever_comes_in_whatever_order_and_however_often_everything_passes_once_in_order(data: st.DataObject) -> None:
    """Two ways lead here, each with holes, doubles and disorder; what both withhold is read from the ledger at last."""
    size = data.draw(st.integers(1, 30))
    begins = data.draw(st.integers(0, size))
    came = data.draw(st.lists(st.lists(st.integers(1, size), max_size=10), max_size=12))
    order = InOrder(begins)
    passed: list[int] = []
    for positions in came:
        before = order.reached
        ready = [one.position for one in order.take([an_entry(position) for position in positions])]
        assert ready == list(range(before + 1, order.reached + 1))
        passed += ready
    while order.reached < size:  # as `streams.following` does: from where the gap begins, page by page
        page = range(order.reached + 1, min(order.reached + 4, size) + 1)
        passed += [one.position for one in order.take(map(an_entry, page))]
    assert passed == list(range(begins + 1, size + 1))


def test_what_comes_far_too_early_is_not_hoarded_and_comes_in_time_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.tail.EARLY_MAX", 2)
    order = InOrder(0)
    assert order.take(map(an_entry, (5, 4, 3, 2))) == []
    assert [one.position for one in order.take([an_entry(1)])] == [1]
    assert [one.position for one in order.take(map(an_entry, (2, 3)))] == [2, 3, 4, 5]


@dataclass(frozen=True)
class Thing:
    position: int
    size_bytes: int


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5)), st.integers(1, 12), st.integers(1, 200))
def test_a_tail_forgets_from_its_beginning_and_says_so(batches: Sequence[Sequence[int]], items_max: int, bytes_max: int) -> None:
    asyncio.run(_grow(batches, items_max, bytes_max))


async def _grow(batches: Sequence[Sequence[int]], items_max: int, bytes_max: int) -> None:
    tail: Tail[Thing] = Tail(0, items_max, bytes_max)
    every: list[Thing] = []
    for sizes in batches:
        items = [Thing(len(every) + number, size) for number, size in enumerate(sizes, 1)]
        every += items
        tail.extend(items, len(every))
        kept = tail.after(tail.begins)
        assert len(kept) <= items_max
        assert sum(item.size_bytes for item in kept) <= bytes_max
        assert kept == every[tail.begins :]
        for place in range(tail.begins, tail.reached + 1):
            assert tail.after(place) == every[place:]


async def test_a_tail_wakes_those_who_wait_for_what_it_has_not_reached() -> None:
    tail: Tail[Thing] = Tail(4, 10, 100)
    waiting = [asyncio.create_task(tail.beyond(position)) for position in (3, 4, 5)]
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True, False, False]
    tail.extend([Thing(5, 1)], 5)
    await asyncio.sleep(0.01)
    assert [task.done() for task in waiting] == [True, True, False]
    tail.extend([], 6)
    await asyncio.wait_for(waiting[2], 1)


ROW = {"status": "pending", "type": "pii_access", "approver_roles": ["admin", "approver"], "command": None, "stream": "dataset:d"}


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ({"status": ["pending"]}, True),
        ({"status": ["approved", "pending"]}, True),
        ({"status": ["approved"]}, False),
        ({"status": ["pending"], "type": ["other"]}, False),
        ({"approver_roles": ["admin"]}, True),
        ({"approver_roles": ["auditor", "viewer"]}, False),
        ({"command": ["null"]}, True),
        ({"stream": ["null"]}, False),
    ],
)
def test_a_row_passes_the_filters_that_its_list_has(where: dict[str, list[str]], passes: bool) -> None:
    assert row_filter(approvals, where)(ROW) is passes


def test_a_filter_that_a_list_does_not_have_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        row_filter(exports, {"colour": ["red"]})
    assert (refused.value.code, refused.value.facts["field"]) == ("invalid_parameter", "colour")
    assert "requested_by" in refused.value.facts["remedy"]
