"""A service that keeps failing is left alone, tried by one, and taken back when it answers."""

from __future__ import annotations

import asyncio

import pytest

from infra.circuit import Circuit, CircuitOpen, away, readings

MEANWHILE = "Nothing is asked of it."


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def attempt(circuit: Circuit, error: BaseException | None = None) -> None:
    with circuit.trying(TimeoutError, OSError):
        if error is not None:
            raise error


def broken(circuit: Circuit, times: int) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="away"):
            attempt(circuit, OSError("away"))


def test_it_opens_after_failures_in_a_row_and_only_then() -> None:
    circuit = Circuit("opa", MEANWHILE, failures=3)
    broken(circuit, 2)
    attempt(circuit)
    broken(circuit, 2)
    assert circuit.state == "closed"
    broken(circuit, 1)
    assert circuit.state == "open"
    with pytest.raises(CircuitOpen) as refused:
        attempt(circuit)
    assert refused.value.service == "opa"
    assert 0 < refused.value.retry_seconds <= 6


def test_an_answer_that_is_an_error_of_ours_is_an_answer() -> None:
    circuit = Circuit("s3", MEANWHILE, failures=1)
    with pytest.raises(KeyError):
        attempt(circuit, KeyError("no such object"))
    assert circuit.state == "closed"


def test_one_tries_it_again_and_its_answer_closes_it_for_everybody() -> None:
    clock = Clock()
    circuit = Circuit("redis", MEANWHILE, failures=1, rest_seconds=10, now=clock)
    broken(circuit, 1)
    clock.seconds += 13
    assert circuit.state == "half-open"
    with circuit.trying(OSError), pytest.raises(CircuitOpen):
        attempt(circuit)  # while the one tries, nobody else does
    assert circuit.state == "closed"
    attempt(circuit)


def test_a_trial_that_fails_lets_it_rest_again() -> None:
    clock = Clock()
    circuit = Circuit("redis", MEANWHILE, failures=3, rest_seconds=10, now=clock)
    broken(circuit, 3)
    clock.seconds += 13
    broken(circuit, 1)
    assert circuit.state == "open"
    with pytest.raises(CircuitOpen):
        attempt(circuit)


def test_a_trial_that_is_given_up_leaves_the_next_one_to_try() -> None:
    clock = Clock()
    circuit = Circuit("oidc", MEANWHILE, failures=1, rest_seconds=1, now=clock)
    broken(circuit, 1)
    clock.seconds += 2
    with pytest.raises(asyncio.CancelledError):
        attempt(circuit, asyncio.CancelledError())
    assert circuit.state == "half-open", "nobody has heard from it"
    attempt(circuit)
    assert circuit.state == "closed"


def test_processes_do_not_come_back_to_it_together() -> None:
    clock = Clock()

    def rest() -> float:
        circuit = Circuit("opa", MEANWHILE, failures=1, rest_seconds=10, now=clock)
        broken(circuit, 1)
        with pytest.raises(CircuitOpen) as refused:
            attempt(circuit)
        return refused.value.retry_seconds

    rests = [rest() for _ in range(50)]
    assert len(set(rests)) > 40
    assert 8 <= min(rests) <= max(rests) <= 12


def test_its_state_is_a_metric_and_what_is_done_meanwhile_is_told() -> None:
    circuit = Circuit("weather", MEANWHILE, failures=1)
    assert ("aureus_circuit_open", ("weather",), 0) in readings()
    assert "weather" not in away()
    broken(circuit, 1)
    assert ("aureus_circuit_open", ("weather",), 1) in readings()
    assert away()["weather"] == MEANWHILE
