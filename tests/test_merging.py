"""Stretches that come doubled, shuffled, or not at all still become each event once, in order, with the ledger at hand."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.merging import Merging, Missing
from streams.records import Stretch


@dataclass(frozen=True)
class Happened:
    """An event as far as merging cares: its position, and the partition its stream belongs to."""

    position: int
    partition: int


Ledger = list[Any]


def stretch(ledger: Ledger, partition: int, of: int, after: int, until: int) -> Stretch:
    own: Any = tuple(e for e in ledger[after:until] if e.partition == partition)
    return Stretch(partition, of, after, until, own)


def told(ledger: Ledger, of: int, ends: list[int]) -> list[Stretch]:
    """What a relay sends that read up to each of `ends` in turn: a stretch for every partition, each time."""
    bounds = sorted({0, *ends, len(ledger)})
    return [stretch(ledger, p, of, after, until) for after, until in pairwise(bounds) for p in range(of)]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[Ledger, int, list[Stretch]]:
    """A ledger, dealt out among partitions, and the stretches of it that arrive: some twice, some never, in any order."""
    of = draw(st.integers(1, 4))
    partitions = draw(st.lists(st.integers(0, of - 1), min_size=1, max_size=30))
    ledger = [Happened(position, partition) for position, partition in enumerate(partitions, start=1)]
    ends = draw(st.lists(st.integers(1, len(ledger)), max_size=6))
    # A relay that was killed before it noted its place begins again elsewhere: other stretches of the same events.
    sent = told(ledger, of, ends) + told(ledger, of, draw(st.lists(st.integers(1, len(ledger)), max_size=3)))
    arriving = draw(st.lists(st.sampled_from(sent), max_size=3 * len(sent)))
    return ledger, of, arriving


@given(deliveries(), st.integers(0, 10))
def test_each_event_comes_out_once_and_in_order(delivered: tuple[Ledger, int, list[Stretch]], began: int) -> None:
    ledger, of, arriving = delivered
    position = min(began, len(ledger))
    merging = Merging(of, position)
    out: list[Any] = []

    def refill(until: int) -> None:
        out.extend(ledger[merging.position : until])
        merging.skip_to(until)

    for one in arriving:
        merging.add(one)
        out += merging.take()
        assert out == ledger[position : merging.position]
        assert merging.position == merging.safe
        while (until := merging.missing()) is not None:
            refill(until)
            out += merging.take()
    assert out == ledger[position : merging.position]
    assert merging.held == sum(e.position > merging.position for known in merging._partitions for e in known.events)
    reached = [max((s.until for s in arriving if s.partition == p), default=0) for p in range(of)]
    assert merging.position >= min(reached), "what every partition was told of is out"
    refill(len(ledger))
    assert (out, merging.held, merging.missing()) == (ledger[position:], 0, None)


@given(deliveries())
def test_all_that_is_sent_in_order_needs_no_ledger(delivered: tuple[Ledger, int, list[Stretch]]) -> None:
    ledger, of, _ = delivered
    merging = Merging(of, 0)
    out: list[Any] = []
    for one in told(ledger, of, [len(ledger) // 2]):
        merging.add(one)
        assert merging.missing() is None
        out += merging.take()
    assert (out, merging.duplicates) == (ledger, 0)


def test_duplicates_are_counted_and_dropped() -> None:
    ledger: Ledger = [Happened(1, 0), Happened(2, 0)]
    merging = Merging(1, 0)
    for _ in range(3):
        merging.add(stretch(ledger, 0, 1, 0, 2))
    assert (merging.take(), merging.take(), merging.duplicates) == (ledger, [], 2)


def test_one_partition_is_held_until_the_others_have_come_as_far() -> None:
    ledger: Ledger = [Happened(1, 0), Happened(2, 1), Happened(3, 0)]
    merging = Merging(2, 0)
    merging.add(stretch(ledger, 0, 2, 0, 3))
    assert (merging.take(), merging.safe, merging.held) == ([], 0, 2)
    merging.add(stretch(ledger, 1, 2, 0, 2))
    assert (merging.take(), merging.held) == (ledger[:2], 1)


@pytest.mark.parametrize("events", [(), (Happened(1, 0), Happened(1, 0)), (Happened(2, 0), Happened(3, 0))], ids=str)
def test_a_stretch_that_does_not_hold_what_it_says_is_not_believed(events: Any) -> None:
    """Two records of another ledger, or a relay gone wrong: a total order has no holes, so it shows."""
    merging = Merging(1, 0)
    merging.add(Stretch(0, 1, 0, 2, events))
    with pytest.raises(Missing) as missing:
        merging.take()
    assert (missing.value.after, missing.value.until, merging.position) == (0, 2, 0)
