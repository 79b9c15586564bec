"""What one attempt to decide a command looks at: the states, the policies in force, the evidence - and the versions it relies on."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from commands.access import DECIDER as ACTORS
from commands.agents import AGENTS
from commands.duties import DECIDER as DUTIES
from commands.duties import commands_apart, hand_of, roles_apart
from commands.evidence import ARTIFACTS
from commands.keys import DECIDER as KEYS
from commands.policies import DECIDER as POLICIES
from commands.policy import PolicyPort, Rulebook
from commands.reach import APPROVAL, Place, approved_command, outside_reach, roles_in
from commands.states import Seen, States, StreamKey
from domain.access import PREFIXES, Registration
from domain.actions import ActionParked, RequestSignature
from domain.agents import Agent
from domain.approvals import Approval
from domain.duties import RULES_STREAM, Duties
from domain.evidence import Artifact
from domain.kernel import Asked, Asker, Command, Decider, JsonObject, Recorded, Refused, SignatureCheck
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyRing
from domain.ledger import Conflict, LedgerPort
from domain.values import ActorKind

AnyDecider = Decider[Any, Any, Any]
POLICY_SET: Final = "policyset:active"
KEY_RING: Final = (SYSTEM_TENANT, KEY_STREAM)
RECENT_MIN: Final = 64
COMMANDS_KNOWN: Final = 20_000
DURABLE_TRIES: Final = 500
DURABLE_SECONDS: Final = 0.002
"""So often, and each time so long, is waited for what this process itself has just decided."""


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
    """`asked.by` holds the roles that the asker has where the command takes effect."""
    evidence: Evidence
    recent: int
    ring: KeyRing
    """The keys of the ledger and of its actors."""
    stopped: str | None = None
    """The agent that was stopped: the asker, or one it was delegated by."""
    barred: Refused | None = None
    """Why the asker may not act at all: it was suspended or has left, or whoever answers for it."""
    beyond: Refused | None = None
    """Why it may not ask this: none of its roles there is one that may."""
    by_grant: bool = False
    """Whether it may ask this by an explicit grant alone."""
    left: frozenset[str] = frozenset()
    """The approvers of the approval it names who have left since: their word does not count."""
    apart: Refused | None = None
    """The rule on the separation of duties that the asker would break."""
    others: Mapping[StreamKey, Seen] = field(default_factory=dict)
    """What it relies on besides, each by its version."""
    commands: Mapping[str, type[Command]] = field(default_factory=dict)
    """Every command there is, by its name."""

    def question(self, ask: Ask) -> JsonObject:
        """What the policies are asked."""
        facts = self.decider.facts(self.seen.state, ask.command)
        if self.asked.past is not None:
            facts = {**facts, **self.decider.past_facts(self.seen.state, self.asked.past)}
        by = self.asked.by
        actor: JsonObject = {"roles": sorted(by.roles), "kind": by.kind.value}
        if by.domains is not None:
            actor["bounded"] = True
        if self.by_grant:
            actor["by_grant"] = True
        return {
            "action": ask.command.command_name,
            "actor": actor,
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
        self._commands_of: OrderedDict[tuple[str, str], str] = OrderedDict()

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

    async def look(
        self, ask: Ask, decider: AnyDecider, key: StreamKey, seen: Seen, *, approval: Approval | None = None, rehearsed: bool = False
    ) -> Sight:
        tenant = ask.by.tenant
        rulebook, policies_key, policies = await self.rulebook(tenant)
        ring = await self._states.load(KEYS, KEY_RING)
        others = {policies_key: policies, KEY_RING: ring}
        barred = await self._barred(ask.by, others)
        left = await self._left(tenant, approval, others)
        stopped = await self._stopped(ask.by, others) if ask.by.kind is ActorKind.AGENT else None
        others |= {(tenant, stream): Seen(version, None) for stream, version in ask.bound_to}
        relied_on = dict.fromkeys((*ask.command.relies_on(), *decider.relies_on(seen.state, ask.command)))
        named = {stream: await self._other((tenant, stream), others) for stream in relied_on}
        apart = await self._apart(ask, key, seen, others)
        past_version = ask.command.past_version()
        past = None if past_version is None else await self._past(decider, key, seen, past_version)
        others.pop(key, None)
        evidence = NO_EVIDENCE if ask.approval_id is None and not ask.artifacts else await self._evidence(ask)
        recent = self._recent.count(ask.by, ask.at, rehearsed=rehearsed)
        places = await self._places(ask, decider, key, seen, past, named, others)
        held = roles_in(ask.by, places, ask.at)
        by_grant = bool(ask.by.holdings) and roles_in(replace(ask.by, holdings=()), places, ask.at).isdisjoint(ask.command.roles)
        beyond = outside_reach(ask.by, type(ask.command), places, ask.at) if held.isdisjoint(ask.command.roles) else None
        by = ask.by if held == ask.by.roles else replace(ask.by, roles=held)
        domains = frozenset(domain for _, found in places for domain in found)
        asked = Asked(by, ask.at, ask.action_id, past, named, seen.version, self._ledger.name, self._signed, domains)
        return Sight(
            decider,
            key,
            seen,
            rulebook,
            asked,
            evidence,
            recent,
            ring.state,
            stopped,
            barred,
            beyond,
            by_grant,
            left,
            apart,
            others,
            self.commands,
        )

    async def _places(
        self, ask: Ask, decider: AnyDecider, key: StreamKey, seen: Seen, past: Any, named: Mapping[str, Any], others: dict[StreamKey, Seen]
    ) -> list[Place]:
        """Where the command takes effect: on its stream - a decision on an approval, on that of what is to be approved - and on
        whatever it relies on that belongs to a domain."""
        if decider.category == APPROVAL and (approved := await self._approved(seen.state, ask.by.tenant, others)) is not None:
            return [approved]
        domains = decider.domains(seen.state, ask.command)
        if past is not None:
            domains |= decider.domains(past, None)
        places = [(key[1], domains)]
        for stream, state in named.items():
            relied_on = self._by_category[stream.partition(":")[0]].domains(state, None)
            if relied_on:
                places.append((stream, relied_on))
        return places

    async def _approved(self, approval: Approval, tenant: str, others: dict[StreamKey, Seen]) -> Place | None:
        stream = approval.request.stream if approval.request is not None else None
        decider = None if stream is None else self._by_category.get(stream.partition(":")[0])
        if stream is None or decider is None:
            return None
        command = approved_command(approval, self.commands)
        if command is not None and type(command) not in decider.commands:
            return None
        return stream, decider.domains(await self._other((tenant, stream), others), command)

    async def _barred(self, by: Asker, others: dict[StreamKey, Seen]) -> Refused | None:
        """Looked up on the streams themselves, so that it holds from that very event on in every process."""
        for actor_id in filter(None, (by.actor, by.owner)):
            registration: Registration = await self._actor(by.tenant, actor_id, others)
            if registration.actor is not None and registration.actor.suspended:
                gone = registration.actor.offboarded
                code, what = ("actor_offboarded", "has left") if gone else ("actor_suspended", "is suspended")
                whose = f"{actor_id}, who answers for {by.actor}," if actor_id != by.actor else actor_id
                remedy = "Somebody else has to act, or answer for it." if gone else "Ask an administrator to reinstate them."
                return Refused(code, f"{whose} {what}.", actor=actor_id, remedy=remedy)
        return None

    async def _left(self, tenant: str, approval: Approval | None, others: dict[StreamKey, Seen]) -> frozenset[str]:
        left = set()
        for actor_id in approval.heard if approval is not None else ():
            registration: Registration = await self._actor(tenant, actor_id, others)
            if registration.actor is not None and registration.actor.offboarded:
                left.add(actor_id)
        return frozenset(left)

    async def _actor(self, tenant: str, actor_id: str, others: dict[StreamKey, Seen]) -> Any:
        return await self._other((tenant, f"{ACTORS.category}:{actor_id}"), others)

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

    async def _apart(self, ask: Ask, key: StreamKey, seen: Seen, others: dict[StreamKey, Seen]) -> Refused | None:
        """Why the separation of duties forbids it. Who wrote the stream is looked up only where a rule is about this very command."""
        rules_key = (ask.by.tenant, RULES_STREAM)
        others[rules_key] = await self._states.load(DUTIES, rules_key)
        duties: Duties = others[rules_key].state
        if not duties.rules:
            return None
        name = ask.command.command_name
        rules, refused = duties.about(name), roles_apart(duties, ask.by, ask.at)
        if refused is not None or not rules:
            return refused
        hand = hand_of(ask.by.actor, ask.by.owner)
        return commands_apart(rules, name, hand, key[1], await self._did(ask.by.tenant, hand, key, seen))

    async def _did(self, tenant: str, hand: str, key: StreamKey, seen: Seen) -> set[str]:
        """The commands by which a hand wrote a stream, up to the version that is decided on."""
        done = set()
        for recorded in await self._history(key, seen):
            if hand_of(recorded.actor, await self._owner(tenant, recorded.actor)) == hand and recorded.causation is not None:
                done.add(await self._command_of(tenant, str(recorded.causation)))
        return done

    async def _history(self, key: StreamKey, seen: Seen) -> Sequence[Recorded[Any]]:
        """A stream as it was written; what this process decided a moment ago is waited for, for only the ledger knows whose it is."""
        tries = DURABLE_TRIES
        while True:
            history = await self._ledger.read_stream(*key)
            written = history[-1].version if history else 0
            if written >= seen.version:
                return history
            tries -= 1
            if tries == 0 or (seen.fate is not None and seen.fate.lost):
                raise Conflict(key[1], seen.version, written)
            await asyncio.sleep(DURABLE_SECONDS)

    async def _owner(self, tenant: str, actor: str) -> str | None:
        if actor.startswith(PREFIXES[ActorKind.PERSON]):
            return None
        registration: Registration = (await self._states.load(self._by_category["actor"], (tenant, f"actor:{actor}"))).state
        return registration.actor.owner if registration.actor else None

    async def _command_of(self, tenant: str, action_id: str) -> str:
        """The command that an action was asked for by; that never changes."""
        if (tenant, action_id) not in self._commands_of:
            action = await self._ledger.read_stream(tenant, f"action:{action_id}")
            self._commands_of[tenant, action_id] = action[0].event.intent.command if action else ""
            if len(self._commands_of) > COMMANDS_KNOWN:
                self._commands_of.popitem(last=False)
        return self._commands_of[tenant, action_id]

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
