"""A figure: our number beside a peer's, from rounds that alternate so that a busy moment of the machine hits both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

from bench.lab import Lab

ROUNDS: Final = 5

Sample = Mapping[str, float]
"""What one round measured, by metric (`rate`, `p50_ms`, ...)."""
Contestant = Callable[[Lab], AbstractContextManager[Callable[[], Sample]]]
"""Sets itself up on entry, yields a function that measures one round, and leaves nothing behind on exit."""


@dataclass(frozen=True)
class Goal:
    """What a figure must reach: `ratio` is ours / peer in `metric`; `peer` names a contestant, or is a fixed limit."""

    peer: str | float
    metric: str
    unit: str
    ratio: float
    better: Literal["higher", "lower"] = "higher"
    name: str = ""
    """Stands after the figure's name (`append_64/stock`); none when a figure has one goal."""


@dataclass(frozen=True)
class Figure:
    """One benchmark: a contestant of ours, its peers, and the goals that compare them."""

    name: str
    ours: Contestant
    goals: tuple[Goal, ...]
    peers: Mapping[str, Contestant] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Several rounds as one number, and how far apart they lay."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """A line of the table, and of `results.json`."""

    name: str
    ours: Spread
    peer: Spread
    unit: str
    goal: Goal

    @property
    def ratio(self) -> float:
        return self.ours.median / self.peer.median

    @property
    def ok(self) -> bool:
        return self.ratio >= self.goal.ratio if self.goal.better == "higher" else self.ratio <= self.goal.ratio

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ours": round(self.ours.median, 3),
            "peer": round(self.peer.median, 3),
            "unit": self.unit,
            "ratio": round(self.ratio, 3),
            "goal": self.goal.ratio,
            "ok": self.ok,
        }


def measure(figure: Figure, lab: Lab, rounds: int = ROUNDS, progress: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Runs one round of each to warm up, then `rounds` in turn (ours, peer, peer, ours, peer, ...); medians decide."""
    samples: dict[str, list[Sample]] = {"ours": [], **{name: [] for name in figure.peers}}
    with ExitStack() as stack:
        contestants = {name: stack.enter_context(open_(lab)) for name, open_ in {"ours": figure.ours, **figure.peers}.items()}
        for number in range(rounds + 1):
            for name, one_round in contestants.items():
                progress(f"{figure.name}: {name}, {'warm-up' if number == 0 else f'round {number} of {rounds}'}")
                sample = one_round()
                if number > 0:
                    samples[name].append(sample)
    return [_row(figure.name, goal, samples) for goal in figure.goals]


def _row(figure: str, goal: Goal, samples: Mapping[str, list[Sample]]) -> Row:
    ours = Spread.of([sample[goal.metric] for sample in samples["ours"]])
    if isinstance(goal.peer, str):
        peer = Spread.of([sample[goal.metric] for sample in samples[goal.peer]])
    else:
        peer = Spread(goal.peer, goal.peer, goal.peer)
    return Row(f"{figure}/{goal.name}" if goal.name else figure, ours, peer, goal.unit, goal)
