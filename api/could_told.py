"""How "who could see this then" is answered: verdicts with what is behind them, standing and budgets - and in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from pydantic import BaseModel

from commands.outcome import Outcome
from domain.kernel import JsonObject
from domain.policies import PolicySet

Verdict = Literal["allowed", "approved", "needs_approval", "blocked"]
"""`approved`: it took an approval, and there was one, for exactly the calls it names."""
VERDICTS: Final[tuple[Verdict, ...]] = ("allowed", "approved", "needs_approval", "blocked")
Action = Literal["agents.request_action", "catalog.record_usage"]
"""The commands that Aureus decides reading by: an agent's tool call on a dataset, and the record that somebody read one."""
DEFAULT_TOOL: Final = "read"
MEANINGS: Final[Mapping[Action, str]] = {
    "agents.request_action": "Reading is a call of this tool on the dataset, asked for without a reason and without evidence.",
    "catalog.record_usage": "Aureus keeps no rows: of people and services it decides who may put a read of a dataset on record. "
    "The catalog's entry is open to every role.",
}


class Moment(BaseModel):
    """The moment that is told of: everything up to the position had happened, and approvals count that had not run out by the time."""

    position: int
    at: str


class PolicyVersion(BaseModel):
    """One policy that was in force."""

    policy: str
    version: int


class InForce(BaseModel):
    """The policies that were in force, with the id that decisions under them record."""

    policy_version: str
    policies: list[PolicyVersion]


class Said(BaseModel):
    """What one policy says of it; `version` is null for what stands in for a policy (`default_deny`, `engine`)."""

    policy: str
    version: int | None
    outcome: str
    reason: str


class Approver(BaseModel):
    """Who agreed to an approval, for whom, and when."""

    approver: str
    on_behalf_of: str | None
    at: str


class ApprovalThen(BaseModel):
    """An approval as it stood: good for one exact command. `covers` says whether that command would have been allowed by it then,
    and `why_not` why not; a used one covers nothing any more.
    """

    approval_id: str
    status: str
    given_by: list[Approver]
    expires_at: str
    request_id: str | None
    purpose: str | None
    used_at: str | None
    covers: bool
    why_not: str | None


class Judged(BaseModel):
    """A verdict and why: what policies said, or the `code` and `message` of the refusal; where it takes an approval, whose."""

    verdict: Verdict
    code: str | None
    message: str | None
    policies: list[Said]
    approver_roles: list[str]
    quorum: int | None
    required_evidence: list[str]
    approvals: list[ApprovalThen]
    explanation: str


class DatasetVerdict(Judged):
    """One dataset as it was classified then, and whether it could be read."""

    dataset_id: str
    domain: str
    pii_level: str
    jurisdiction: str
    environment: str
    status: str


class Stop(BaseModel):
    """Which agent was stopped - the one itself, or one it acted for - by whom, when and why."""

    agent_id: str
    by: str
    at: str
    reason: str


class Standing(BaseModel):
    """An actor as it stood: `acts_for` are the agents up its chain of delegation, nearest first; `api_keys` those still good."""

    actor_id: str
    kind: str
    roles: list[str]
    owner: str | None
    status: Literal["active", "suspended", "stopped"]
    stop: Stop | None
    acts_for: list[str]
    purpose: str | None
    model: str | None


class ActorVerdict(Judged, Standing):
    """One actor as it stood, and whether it could read the dataset."""

    action: Action


class BudgetLeft(BaseModel):
    """A budget that the actor had reserved from: `left_minor` is what could still be promised, by itself and all budgets above it;
    `held_minor` and `spent_minor` are the actor's own."""

    budget_id: str
    currency: str
    status: str
    limit_minor: int
    left_minor: int
    held_minor: int
    spent_minor: int


class Unmasking(BaseModel):
    """Leave that an actor had to see personal values kept for some purposes, of one subject or (null) of all; no `fields`: all of them."""

    grant_id: str
    actor_id: str
    subject_id: str | None
    purposes: list[str]
    fields: list[str]
    until: str
    granted_by: str


class CouldRead(BaseModel):
    """What an actor could read at a moment, and whose personal values it could see unmasked.

    `counts` are those of this page, before `verdict` narrows it.
    """

    explanation: str
    as_of: Moment
    actor: Standing
    api_keys: int
    action: Action
    tool: str | None
    meaning: str
    in_force: InForce
    budgets: list[BudgetLeft]
    unmasking: list[Unmasking]
    counts: dict[Verdict, int]
    items: list[DatasetVerdict]
    next_cursor: str | None


class CouldSee(BaseModel):
    """Who could read a dataset at a moment, and who could see the personal values of its owners unmasked.

    `counts` are those of this page, before `verdict` narrows it.
    """

    explanation: str
    as_of: Moment
    dataset: JsonObject
    tool: str
    meanings: dict[Action, str]
    in_force: InForce
    unmasking: list[Unmasking]
    counts: dict[Verdict, int]
    items: list[ActorVerdict]
    next_cursor: str | None


def said_of(outcome: Outcome, in_force: PolicySet) -> list[Said]:
    """What the policies said, each with the version of it that was in force."""
    versions = in_force.in_force
    return [Said(version=versions.get(result["policy"]), **result) for result in outcome.policy_results]


def in_force_of(policy_version: str, policies: PolicySet) -> InForce:
    return InForce(
        policy_version=policy_version,
        policies=[PolicyVersion(policy=policy_id, version=version) for policy_id, version in sorted(policies.in_force.items())],
    )


def counted(judged: Iterable[Judged]) -> dict[Verdict, int]:
    found = Counter(one.verdict for one in judged)
    return {verdict: found[verdict] for verdict in VERDICTS}


def sentence(actor_id: str, dataset_id: str, action: Action, judged: JsonObject) -> str:
    """One verdict in words; `judged` holds what `Judged` does, but the explanation."""
    done = f"read {dataset_id}" if action == "agents.request_action" else f"put reads of {dataset_id} on record"
    covering = [one for one in judged["approvals"] if one.covers]
    asking = _deciding(judged["policies"], "require_approval")
    match judged["verdict"]:
        case "allowed":
            return f"{actor_id} could {done}: allowed by {_deciding(judged['policies'], 'allow')}."
        case "approved":
            had = "; ".join(f"{one.approval_id} by {_givers(one)} until {_to_second(one.expires_at)}" for one in covering)
            return f"{actor_id} could {done} under approval {had}, which {asking} asked for."
        case "needs_approval":
            return f"{actor_id} could {done} only with an approval, which it did not have: {asking} asked for one."
        case _:
            return f"{actor_id} could not {done}: {judged['message']}"


def standing_sentence(standing: Standing) -> str:
    """Who it was, and what kept it from acting at all."""
    kind = f"{'an' if standing.kind == 'agent' else 'a'} {standing.kind}" + (f" of {standing.owner}" if standing.owner else "")
    acts_for = f", acting for {', '.join(standing.acts_for)}" if standing.acts_for else ""
    roles = f"{'role' if len(standing.roles) == 1 else 'roles'} {', '.join(standing.roles)}"
    told = f"{standing.actor_id} was {kind}{acts_for} in the {roles}."
    if standing.stop is not None:
        stop = standing.stop
        whose = "It" if stop.agent_id == standing.actor_id else stop.agent_id
        told += f" {whose} had been stopped by {stop.by} at {_to_second(stop.at)}: {stop.reason}."
    return told + (" It was suspended." if standing.status == "suspended" else "")


def counts_sentence(counts: Mapping[Verdict, int], what: str) -> str:
    """The counts of a page in words."""
    return (
        f"Of {sum(counts.values())} {what}: {counts['allowed']} allowed, {counts['approved']} under an approval it had, "
        f"{counts['needs_approval']} only with one it had not, {counts['blocked']} not at all."
    )


def budgets_sentence(budgets: Sequence[BudgetLeft]) -> str:
    """What was left of the budgets."""
    if not budgets:
        return "It had reserved from no budget."
    return " ".join(f"Budget {one.budget_id} had {one.left_minor / 100:.2f} {one.currency} left." for one in budgets)


def _deciding(said: Sequence[Said], outcome: str) -> str:
    """The policies that said so, once each."""
    named = [f"{one.policy} v{one.version}" if one.version else one.policy for one in said if one.outcome == outcome]
    return ", ".join(dict.fromkeys(named)) or "no policy"


def _givers(approval: ApprovalThen) -> str:
    return " and ".join(one.approver for one in approval.given_by)


def _to_second(text: str) -> str:
    return f"{text[:19]}Z"
