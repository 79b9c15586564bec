"""The log: stretches of it that were checked by themselves, put together with all that links them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

from infra.verifier.checking import Caused, Findings, StreamKey, Told, require_link, shown
from infra.verifier.events import Bad, open_entry, read_body
from infra.verifier.keys import ANY_VERSION, Fact, KeyRing
from infra.verifier.result import Problem, Result
from infra.verifier.sources import Held, Source, where
from infra.verifier.workers import Workers

AHEAD: Final = 2
"""Stretches that wait for each process."""

NO_EVENT: Final = (0, b"")
"""(version, leaf hash) of a stream before its first event."""
OnFindings = Callable[[Findings], None]


class Log:
    """Takes the stretches of a log in order, and keeps what has to be known from one to the next.

    `told` says what is looked at. The keys in it are those known so far: a stretch under which more come to light, and those that
    were checked ahead of it, are checked again.
    """

    def __init__(self, result: Result, ring: KeyRing, workers: Workers, told: Told) -> None:
        self.result, self.ring, self.told = result, ring, told
        self._workers = workers
        self.positions = array("Q")
        self._sources: list[tuple[int, Source]] = []
        """Each stretch that lies in a file, by its last position."""
        self._last = 0
        self._last_at = b""
        self._heads: dict[StreamKey, tuple[int, bytes]] = {}
        self._ids: set[bytes] = set()
        self._nonces: set[tuple[str, str]] = set()
        self._signed: list[tuple[str, int, int]] = []
        self._claims: dict[Caused, list[tuple[int, Fact]]] = {}
        """Facts in the name of those who sign what they ask, which no action accounts for yet."""

    @property
    def tenants(self) -> set[str]:
        """Whose events there were."""
        return {shown(tenant) for tenant, _ in self._heads}

    def call(self, ledger: str) -> None:
        """Says whose log this is."""
        self.told = replace(self.told, ledger=ledger)

    def where(self, position: int) -> str | None:
        """The file and the byte at which an event begins, for people."""
        stretch = bisect_left(self._sources, position, key=lambda one: one[0])
        return where(self._sources[stretch][1], position) if stretch < len(self._sources) else None

    def take(self, sources: Iterable[Source], on_findings: OnFindings) -> None:
        """The next stretches; `on_findings` is shown what each came to, in order."""
        waiting: deque[tuple[Source, Told, Future[Findings]]] = deque()
        for source in sources:
            waiting.append((source, self.told, self._workers.ask(source, self.told)))
            if not self.told.keys or len(waiting) >= AHEAD * self._workers.processes:
                on_findings(self._settle(*waiting.popleft()))
        while waiting:
            on_findings(self._settle(*waiting.popleft()))

    def finish(self) -> None:
        """Counts, once everything was taken."""
        result = self.result
        for claims in self._claims.values():
            for position, fact in claims:
                result.add(_never_asked(position, fact))
        result.streams += len(self._heads)
        result.keys, result.root_key = len(self.ring.keys), self.ring.root
        disputed = {position for key_id, first, last in self._signed for position in self._disputed(key_id, first, last)}
        result.disputed = sorted(disputed.union(result.disputed))

    def _settle(self, source: Source, told: Told, answer: Future[Findings]) -> Findings:
        findings = answer.result()
        if told is not self.told:
            findings = self._workers.ask(source, self.told).result()
        if self._learn(findings.key_events, source):
            findings = self._workers.ask(source, self.told).result()
        self._put_together(findings, source)
        return findings

    def _learn(self, key_events: Iterable[tuple[int, bytes]], source: Source) -> bool:
        """Whether the keys are other ones after these events."""
        before = dict(self.ring.keys)
        for position, entry in key_events:
            try:
                body, signatures = open_entry(entry)
                self.ring.learn(position, body, read_body(body), signatures)
            except Bad as bad:
                self.result.add(Problem(position, bad.check, bad.found, where(source, position)))
        if self.ring.keys == before:
            return False
        self.told = replace(self.told, keys=dict(self.ring.keys))
        return True

    def _put_together(self, findings: Findings, source: Source) -> None:
        result = self.result
        found = {problem.position for problem in [*findings.problems, *result.problems]}
        beside = [problem for problem in self._beside(findings) if problem.position not in found]  # the first of an event will do
        for problem in sorted([*findings.problems, *beside], key=lambda problem: (problem.position is None, problem.position or 0)):
            place = where(source, problem.position) if problem.position is not None else problem.where
            result.add(replace(problem, where=place))
        result.events += len(findings.positions)
        result.signatures += findings.signatures
        result.request_signatures += len(findings.requests)
        self._signed.extend(findings.signed)
        if findings.positions:
            self._last = findings.positions[-1]
            if not isinstance(source, Held):
                self._sources.append((self._last, source))
            self._last_at = findings.last_at or self._last_at
            self.positions.extend(findings.positions)

    def _beside(self, findings: Findings) -> Iterator[Problem]:
        """What does not go together with the stretches before."""
        positions = findings.positions
        if positions and positions[0] <= self._last:
            yield Problem(positions[0], "order", f"it stands after position {self._last}")
        if findings.first_at and findings.first_at < self._last_at:
            yield Problem(positions[0], "time", f"{shown(findings.first_at)} is before the event before it")
        for key, (position, version, prev) in findings.firsts.items():
            try:
                require_link(key, self._heads.get(key, NO_EVENT), version, prev, whole=self.told.whole)
            except Bad as bad:
                yield Problem(position, bad.check, bad.found)
        self._heads.update(findings.lasts)
        yield from self._replayed(findings)
        for position, key_id, nonce in findings.requests:
            if (key_id, nonce) in self._nonces:
                yield Problem(position, "request", f"its nonce {nonce} was used before: one request is recorded twice")
            self._nonces.add((key_id, nonce))
        if self.told.whole:
            yield from self._unaccounted(findings)

    def _unaccounted(self, findings: Findings) -> Iterator[Problem]:
        """Facts that are said to come of a signed action, and are not among those that it led to."""
        for position, caused, fact in findings.claims:
            self._claims.setdefault(caused, []).append((position, fact))
        for caused, facts in findings.led_to:
            for position, fact in self._claims.pop(caused, ()):
                if facts.isdisjoint({fact, (*fact[:2], ANY_VERSION)}):
                    yield _never_asked(position, fact)

    def _replayed(self, findings: Findings) -> Iterator[Problem]:
        if len(set(findings.ids)) < len(findings.ids) or not self._ids.isdisjoint(findings.ids):
            for position, event_id in zip(findings.positions, findings.ids, strict=True):
                if event_id and event_id in self._ids:
                    yield Problem(position, "replay", f"the event id {shown(event_id)} stands twice")
                self._ids.add(event_id)
        self._ids.update(findings.ids)

    def _disputed(self, key_id: str, first: int, last: int) -> Iterable[int]:
        """The positions from `first` to `last`, all signed by this key, that are disputed."""
        disputed = self.ring.keys[key_id].disputed()
        first, last = max(first, disputed.start), min(last, disputed.stop - 1)
        return self.positions[bisect_left(self.positions, first) : bisect_right(self.positions, last)]


def _never_asked(position: int, fact: Fact) -> Problem:
    found = f"{fact[0]} is in the name of somebody with a key of their own, and no action that they signed led to it"
    return Problem(position, "request", found)
