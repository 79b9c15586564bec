"""The benchmarks' own arithmetic: rounds that alternate, medians that decide, goals in both directions, honest load."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from bench.__main__ import FIGURES, write_results
from bench.lab import CannotMeasure, Lab, with_database
from bench.load import put_load, render
from bench.measure import Contestant, Figure, Goal, Row, Sample, Spread, measure

pytestmark = pytest.mark.anyio
NO_LAB = cast(Lab, None)


def contestant(name: str, rates: list[float], log: list[str]) -> Contestant:
    @contextmanager
    def opened(_lab: Lab) -> Iterator[Callable[[], Sample]]:
        left = iter(rates)

        def one_round() -> Sample:
            log.append(name)
            return {"rate": next(left)}

        yield one_round
        log.append(f"{name} closed")

    return opened


def row(name: str, ours: float, peer: float, goal: Goal) -> Row:
    return Row(name, Spread.of([ours]), Spread.of([peer]), goal.unit, goal)


def test_rounds_alternate_and_the_warm_up_does_not_count() -> None:
    log: list[str] = []
    figure = Figure(
        "f",
        ours=contestant("ours", [1, 30, 10, 20], log),
        peers={"peer": contestant("peer", [1, 5, 10, 15], log)},
        goals=(Goal("peer", "rate", "events/s", 2.0),),
    )
    (found,) = measure(figure, NO_LAB, rounds=3)
    assert log == ["ours", "peer"] * 4 + ["peer closed", "ours closed"]
    assert (found.ours, found.peer) == (Spread(20, 10, 30), Spread(10, 5, 15))
    assert found.as_json() == {"name": "f", "ours": 20, "peer": 10, "unit": "events/s", "ratio": 2.0, "goal": 2.0, "ok": True}


@pytest.mark.parametrize(
    ("better", "ours", "ok"), [("higher", 99, False), ("higher", 100, True), ("lower", 100, True), ("lower", 101, False)]
)
def test_a_goal_is_met_in_its_own_direction(better: Any, ours: float, ok: bool) -> None:
    assert row("f", ours, 100, Goal("peer", "m", "u", 1.0, better=better)).ok is ok


def test_a_limit_stands_where_a_peer_would() -> None:
    figure = Figure("start", ours=contestant("ours", [9, 2], []), goals=(Goal(2.5, "rate", "s", 1.0, better="lower", name="warm"),))
    (found,) = measure(figure, NO_LAB, rounds=1)
    assert (found.name, found.ratio, found.ok) == ("start/warm", 0.8, True)


def test_results_of_other_figures_stay_when_one_is_run(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    goal = Goal("peer", "rate", "events/s", 1.0)
    write_results([row("append_1", 1, 1, goal), row("rebuild", 1, 1, goal)], file, only=None)
    write_results([row("append_1", 3, 1, goal)], file, only=["append_1"])
    assert [(result["name"], result["ours"]) for result in json.loads(file.read_text())] == [("append_1", 3), ("rebuild", 1)]


def test_every_figure_compares_with_a_contestant_it_has() -> None:
    for figure in FIGURES:
        assert {goal.peer for goal in figure.goals if isinstance(goal.peer, str)} == set(figure.peers)


def test_another_database_of_the_same_server() -> None:
    assert with_database("postgresql://u@/one?host=%2Ftmp%2Fx", "two") == "postgresql://u@/two?host=%2Ftmp%2Fx"
    assert with_database("postgresql://u:p@h:5432/one", "two") == "postgresql://u:p@h:5432/two"


async def _load_on(answer: bytes, folder: Path) -> Sample:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer[:20])
                await writer.drain()
                writer.write(answer[20:])  # an answer may come in parts
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await asyncio.to_thread(put_load, port, [render("GET", "/", {})], folder, connections=2, seconds=0.2)


async def test_load_counts_answers_and_their_times(tmp_path: Path) -> None:
    sample = await _load_on(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", tmp_path)
    assert sample["answers"] > 10
    assert 0 < sample["p50_ms"] <= sample["p99_ms"]


async def test_load_ends_at_the_first_answer_that_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match="503 Service Unavailable"):
        await _load_on(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy", tmp_path)
