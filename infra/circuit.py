"""A circuit breaker: a service outside that keeps failing is left alone for a while, so that nobody waits for it in vain."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakSet

from infra.measures import Reading

FAILURES: Final = 3
"""In a row, before a service is left alone."""
REST_SECONDS: Final = 5.0
_JITTER: Final = 0.2
"""By so much of the rest it may be shorter or longer: processes that lost a service together do not come back to it together."""
_log = logging.getLogger("aureus.circuit")
_KNOWN: WeakSet[Circuit] = WeakSet()


class CircuitOpen(Exception):
    """The service failed just now, and is not asked; `retry_seconds` says when it is again."""

    def __init__(self, service: str, retry_seconds: float) -> None:
        super().__init__(f"{service} failed {FAILURES} times in a row or more, and is left alone for {retry_seconds:.1f} s")
        self.service, self.retry_seconds = service, retry_seconds


class Circuit:
    """Stands before one service. Closed, everybody asks it; open, nobody does; half open, one tries whether it is back.

    `with circuit.trying(TimeoutError, OSError): ...` raises CircuitOpen instead of trying while the circuit is open, and takes
    those exceptions for failures; every other one, and none, is an answer. Being cancelled is neither. Of one event loop: no lock is taken.
    """

    def __init__(
        self,
        service: str,
        meanwhile: str,
        *,
        failures: int = FAILURES,
        rest_seconds: float = REST_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`meanwhile` says what is done without the service, for /readyz."""
        self.service, self.meanwhile = service, meanwhile
        self._most, self._rest_seconds, self._now = failures, rest_seconds, now
        self._failed = 0
        self._rests_until: float | None = None
        self._trying = False
        _KNOWN.add(self)

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        if self._rests_until is None:
            return "closed"
        return "half-open" if self._trying or self._now() >= self._rests_until else "open"

    @contextmanager
    def trying(self, *failures: type[BaseException]) -> Iterator[None]:
        """Raises CircuitOpen, or what the block raises."""
        trial = self._enter()
        try:
            yield
        except failures:
            self._fail()
            raise
        except Exception:
            self._succeed()
            raise
        else:
            self._succeed()
        finally:
            if trial:
                self._trying = False

    def _enter(self) -> bool:
        """Whether this is the one that tries a service which was left alone."""
        if self._rests_until is None:
            return False
        wait = self._rests_until - self._now()
        if wait > 0 or self._trying:
            raise CircuitOpen(self.service, max(wait, 0.0))
        self._trying = True
        return True

    def _fail(self) -> None:
        self._failed += 1
        if self._failed < self._most:
            return
        if self._rests_until is None:
            _log.warning("%s fails: it is left alone, and tried again every %g s", self.service, self._rest_seconds)
        self._rests_until = self._now() + self._rest_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret

    def _succeed(self) -> None:
        if self._rests_until is not None:
            _log.warning("%s answers again", self.service)
        self._failed, self._rests_until = 0, None


def readings() -> Iterable[Reading]:
    """Every service of this process that has a circuit before it."""
    found: dict[str, int] = {}
    for circuit in _KNOWN:
        found[circuit.service] = max(found.get(circuit.service, 0), circuit.state != "closed")
    return [("aureus_circuit_open", (service,), state) for service, state in found.items()]


def away() -> dict[str, str]:
    """The services that are left alone now, each with what is done meanwhile."""
    return {circuit.service: circuit.meanwhile for circuit in _KNOWN if circuit.state != "closed"}
