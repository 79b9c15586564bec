"""What one attempt to decide a command looks at: the states, the policies in force, the evidence - and the versions it relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from commands.agents import AGENTS
from commands.evidence import ARTIFACTS
from commands.keys import DECIDER as KEYS
from commands.policies import DECIDER as POLICIES
from commands.policy import PolicyPort, Rulebook
from commands.states import Seen, States, StreamKey
from domain.actions import ActionParked, RequestSignature
from domain.agents import Agent
from domain.evidence import Artifact
from domain.kernel import Asked, Asker, Command, Decider, JsonObject, SignatureCheck
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyRing
from domain.ledger import LedgerPort
from domain.values import ActorKind

AnyDecider = Decider[Any, Any, Any]
POLICY_SET: Final = "policyset:active"
KEY_RING: Final = (SYSTEM_TENANT, KEY_STREAM)
RECENT_MIN: Final = 64


def unmeasured() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Ask:
    """A command with its circumstances, as the edge hands it over."""

    command: Command
    by: Asker
    action_id: UUID
    at: datetime
    correlation: UUID | None = None
    if_match: int | None = None
    idempotency_key: str | None = None
    approval_id: str | None = None
    reason: str | None = None
    artifacts: tuple[str, ...] = ()
    signature: RequestSignature | None = None
    """The actor's own, over exactly this command."""
    carry_out: bool = False
    """If it has to wait for an approval: let Aureus carry it out when that is granted."""
    bound_to: tuple[tuple[str, int], ...] = ()
    """Streams that must still stand at these versions when it is written, beside all that the decision itself sees."""
    elapsed_us: Callable[[], int] = unmeasured
    """How long ago the request came in: the edge has the clock."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The artifacts an action names; `kinds` are those of them that prove something (a failed test does not)."""

    artifacts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    failed_tests: int = 0


NO_EVIDENCE: Final = Evidence()


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen. A decision holds only while every version in it still does."""

    decider: AnyDecider
    key: StreamKey
    seen: Seen
    rulebook: Rulebook
    asked: Asked
    evidence: Evidence
    recent: int
    ring: KeyRing
    """The keys of the ledger and of its actors."""
    stopped: str | None = None
    """The agent that was stopped: the asker, or one it was delegated by."""
    others: Mapping[StreamKey, Seen] = field(default_factory=dict)
    """What it relies on besides, each by its version."""
    commands: Mapping[str, type[Command]] = field(default_factory=dict)
    """Every command there is, by its name."""

    def question(self, ask: Ask) -> JsonObject:
        """What the policies are asked."""
        facts = self.decider.facts(self.seen.state, ask.command)
        if self.asked.past is not None:
            facts = {**facts, **self.decider.past_facts(self.seen.state, self.asked.past)}
        return {
            "action": ask.command.command_name,
            "actor": {"roles": sorted(ask.by.roles), "kind": ask.by.kind.value},
            "tenant": ask.by.tenant,
            "facts": facts,
            "has_reason": bool(ask.reason),
            "evidence": {"kinds": list(self.evidence.kinds), "failed_tests": self.evidence.failed_tests},
            "recent": self.recent,
        }


class Onlooker:
    """Looks at what decisions need. `deciders` are all there are."""

    def __init__(
        self, ledger: LedgerPort, states: States, policy: PolicyPort, deciders: Iterable[AnyDecider], signed: SignatureCheck
    ) -> None:
        self._ledger, self._states, self._policy, self._signed = ledger, states, policy, signed
        every = tuple(deciders)
        self._by_command: dict[type[Command], AnyDecider] = {command: decider for decider in every for command in decider.commands}
        self._by_category = {decider.category: decider for decider in every}
        self._recent = _Recent()

        self.commands = {command.command_name: command for command in self._by_command}
        """Every command by its name."""

    def decider(self, command: Command) -> AnyDecider:
        return self._by_command[type(command)]

    async def rulebook(self, tenant: str) -> tuple[Rulebook, StreamKey, Seen]:
        """The policies in force, and the state that says so."""
        key = (tenant, POLICY_SET)
        seen = await self._states.load(POLICIES, key)
        return await self._policy.rulebook(seen.state), key, seen

    async def version(self, tenant: str, stream: str) -> int | None:
        """The version a stream is at; None when no context has streams of that name."""
        decider = self._by_category.get(stream.partition(":")[0])
        return None if decider is None else (await self._states.load(decider, (decider.tenant or tenant, stream))).version

    async def look(self, ask: Ask, decider: AnyDecider, key: StreamKey, seen: Seen, *, rehearsed: bool = False) -> Sight:
        tenant = ask.by.tenant
        rulebook, policies_key, policies = await self.rulebook(tenant)
        ring = await self._states.load(KEYS, KEY_RING)
        others = {policies_key: policies, KEY_RING: ring}
        stopped = await self._stopped(ask.by, others) if ask.by.kind is ActorKind.AGENT else None
        others |= {(tenant, stream): Seen(version, None) for stream, version in ask.bound_to}
        named = {stream: await self._other((tenant, stream), others) for stream in ask.command.relies_on()}
        past_version = ask.command.past_version()
        past = None if past_version is None else await self._past(decider, key, seen, past_version)
        others.pop(key, None)
        evidence = NO_EVIDENCE if ask.approval_id is None and not ask.artifacts else await self._evidence(ask)
        recent = self._recent.count(ask.by, ask.at, rehearsed=rehearsed)
        asked = Asked(ask.by, ask.at, ask.action_id, past, named, seen.version, self._ledger.name, self._signed)
        return Sight(decider, key, seen, rulebook, asked, evidence, recent, ring.state, stopped, others, self.commands)

    async def _other(self, key: StreamKey, others: dict[StreamKey, Seen]) -> Any:
        seen = await self._states.load(self._by_category[key[1].partition(":")[0]], key)
        others[key] = seen
        return seen.state

    async def _stopped(self, by: Asker, others: dict[StreamKey, Seen]) -> str | None:
        """The first who was stopped, from the agent itself up the chain of those it was delegated by."""
        agent_id: str | None = by.actor
        while agent_id is not None and (key := (by.tenant, f"{AGENTS.category}:{agent_id}")) not in others:
            others[key] = await self._states.load(AGENTS, key)
            agent: Agent = others[key].state
            if agent.stopped:
                return agent_id
            agent_id = agent.delegated_by
        return None

    async def _past(self, decider: AnyDecider, key: StreamKey, seen: Seen, version: int) -> Any:
        """The state at a version; None when the stream never had it. Versions that were read cannot change any more."""
        if not 1 <= version <= seen.version:
            return None
        history = await self._ledger.read_stream(*key)
        return decider.replay(recorded.event for recorded in history[:version]) if version <= len(history) else None

    async def _evidence(self, ask: Ask) -> Evidence:
        """What the action names, and what it named when it was parked: that is what its approvers saw."""
        named = dict.fromkeys(ask.artifacts)
        if ask.approval_id is not None:
            parked = await self._ledger.read_stream(ask.by.tenant, f"action:{ask.approval_id}")
            if parked and isinstance(parked[0].event, ActionParked):
                named = dict.fromkeys((*parked[0].event.artifacts, *named))
        kinds: set[str] = set()
        failed_tests = 0
        for sha256 in named:
            artifact: Artifact = (await self._states.load(ARTIFACTS, (ask.by.tenant, f"{ARTIFACTS.category}:{sha256}"))).state
            if artifact.registered is None:
                continue
            if artifact.registered.failed:
                failed_tests += 1
            else:
                kinds.add(artifact.registered.kind)
        return Evidence(tuple(named), tuple(sorted(kinds)), failed_tests)


class _Recent:
    """How much each actor asks, so that policies can limit it."""

    def __init__(self) -> None:
        self._minute: datetime | None = None
        self._counts: dict[tuple[str, str], int] = {}

    def count(self, by: Asker, at: datetime, *, rehearsed: bool) -> int:
        """Actions this process was asked for by the actor in the running minute, rounded up to a power of two:
        a class of rates and not a number, so that verdicts can be remembered. What is only rehearsed is not asked for."""
        minute = at.replace(second=0, microsecond=0)
        if minute != self._minute:
            self._minute, self._counts = minute, {}
        asked = self._counts.get((by.tenant, by.actor), 0) + 1
        if not rehearsed:
            self._counts[by.tenant, by.actor] = asked
        return max(RECENT_MIN, 1 << (asked - 1).bit_length())
