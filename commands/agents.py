"""What may be asked of an agent: to act for another, to use a tool on data, and to stop - at once, by one person."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, assert_never

from pydantic import Field

from domain.access import Registration
from domain.agents import (
    ActionRequested,
    Agent,
    AgentDelegated,
    AgentEvent,
    AgentId,
    AgentRegistered,
    AgentResumed,
    AgentStopped,
    DatasetFacts,
    DelegationRevoked,
    OwnerId,
    RequestId,
    SomeText,
    ToolAction,
    contract_status,
    evolve,
    tool_action,
)
from domain.catalog import Dataset
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.values import Identifier, Label, Role

ADMINS: Final = frozenset({Role.ADMIN})
DELEGATORS: Final = frozenset({Role.ADMIN, Role.ANALYST, Role.AGENT})
STOPPERS: Final = frozenset({Role.ADMIN, Role.APPROVER, Role.AUDITOR})
"""Whoever watches over agents may stop any of them: to stop one too many costs less than to ask around first."""
DATASETS_MAX: Final = 50


def agent_stream(agent_id: str) -> str:
    return f"agent:{agent_id}"


def actor_stream(actor_id: str) -> str:
    return f"actor:{actor_id}"


def dataset_stream(dataset_id: str) -> str:
    return f"dataset:{dataset_id}"


class RegisterAgent(Command, name="agents.register_agent", roles=ADMINS):
    """Put on record what an agent is for, what it runs on, and which person answers for it."""

    agent_id: AgentId
    label: Label
    purpose: SomeText
    model: Label
    provider: Label | None = None
    owner: OwnerId


class Delegate(Command, name="agents.delegate", roles=DELEGATORS):
    """Let an agent act for another of the same owner: asked by that other one, or by their owner. Administrators pair any two."""

    agent_id: AgentId
    delegated_by: AgentId

    def relies_on(self) -> tuple[str, ...]:
        return (agent_stream(self.delegated_by),)


class RevokeDelegation(Command, name="agents.revoke_delegation", roles=frozenset({Role.ADMIN, Role.AGENT})):
    """End a delegation: asked by the agent that gave it, or by an administrator. If that agent is stopped, this sets the delegate free."""

    agent_id: AgentId
    delegated_by: AgentId

    def relies_on(self) -> tuple[str, ...]:
        return (agent_stream(self.delegated_by),)


class StopAgent(Command, name="agents.stop_agent", roles=STOPPERS | {Role.ANALYST}):
    """Stop an agent and all its delegates from this position on: an administrator, an approver, an auditor, or its owner."""

    restrains: ClassVar[bool] = True
    agent_id: AgentId
    reason: SomeText

    def relies_on(self) -> tuple[str, ...]:
        return (actor_stream(self.agent_id),)


class ResumeAgent(Command, name="agents.resume_agent", roles=ADMINS):
    """Let a stopped agent act again; it takes another administrator than the one who stopped it."""

    agent_id: AgentId
    reason: SomeText


class RequestAction(Command, name="agents.request_action", roles=frozenset({Role.AGENT})):
    """Ask to use a tool on datasets, for a purpose; `facts` are what the catalog says of these at this moment.

    Whoever hands the command over gathers the facts: no request body holds them. An approval covers them with the rest, so
    it is worth nothing once one of them has changed.
    """

    agent_id: AgentId
    request_id: RequestId
    tool: Identifier
    datasets: Annotated[tuple[Identifier, ...], Field(max_length=DATASETS_MAX)] = ()
    purpose: SomeText
    facts: tuple[DatasetFacts, ...] = ()

    def relies_on(self) -> tuple[str, ...]:
        return tuple(dataset_stream(dataset_id) for dataset_id in self.datasets)


AgentCommand = RegisterAgent | Delegate | RevokeDelegation | StopAgent | ResumeAgent


def decide(agent: Agent, command: AgentCommand, asked: Asked) -> list[AgentEvent]:
    match command:
        case RegisterAgent():
            require(
                not agent.registered,
                "agent_exists",
                f"Agent {command.agent_id} is registered already.",
                field="agent_id",
                remedy="Choose another id.",
            )
            return [AgentRegistered(**command.model_dump())]
        case Delegate():
            return _delegate(agent, command, asked)
        case RevokeDelegation():
            return _revoke(agent, command, asked)
        case StopAgent():
            return _stop(agent, command, asked)
        case ResumeAgent():
            return _resume(agent, command, asked)
        case _:
            assert_never(command)


def _delegate(agent: Agent, command: Delegate, asked: Asked) -> list[AgentEvent]:
    require(
        command.delegated_by != command.agent_id,
        "delegate_is_itself",
        "An agent cannot be its own delegate.",
        field="delegated_by",
        remedy="Name another agent.",
    )
    above: Agent = asked.others[agent_stream(command.delegated_by)]
    for field, agent_id, known in (("agent_id", command.agent_id, agent), ("delegated_by", command.delegated_by, above)):
        require(
            known.registered,
            "agent_not_found",
            f"No agent {agent_id} is registered.",
            field=field,
            remedy="Register it first: somebody has to answer for it.",
        )
    # A delegate is stopped with the one it acts for, so nobody may tie somebody else's agent to their own.
    tied = agent.owner == above.owner and asked.by.actor in (command.delegated_by, above.owner)
    require(
        tied or Role.ADMIN in asked.by.roles,
        "delegation_not_yours",
        f"{asked.by.actor} cannot make {command.agent_id} a delegate of {command.delegated_by}.",
        field="delegated_by",
        owners=sorted({str(agent.owner), str(above.owner)}),
        remedy="Ask the owner of both, or an administrator.",
    )
    require(
        agent.delegated_by in (None, command.delegated_by),
        "already_delegated",
        f"Agent {command.agent_id} acts for {agent.delegated_by}; a delegate acts for one agent at a time.",
        field="agent_id",
        delegated_by=agent.delegated_by,
        remedy="Have that delegation revoked first.",
    )
    return [] if agent.delegated_by else [AgentDelegated(agent_id=command.agent_id, delegated_by=command.delegated_by)]


def _revoke(agent: Agent, command: RevokeDelegation, asked: Asked) -> list[AgentEvent]:
    require(
        agent.delegated_by == command.delegated_by,
        "delegation_not_found",
        f"Agent {command.agent_id} does not act for {command.delegated_by}.",
        field="delegated_by",
        delegated_by=agent.delegated_by,
        remedy="Name the agent that it acts for.",
    )
    # An agent that is stopped is refused before it comes here, so it sets no delegate of its own free.
    require(
        asked.by.actor == command.delegated_by or Role.ADMIN in asked.by.roles,
        "delegation_not_yours",
        f"The delegation of {command.agent_id} was given by {command.delegated_by}.",
        field="delegated_by",
        remedy="Ask that agent or an administrator.",
    )
    above: Agent = asked.others[agent_stream(command.delegated_by)]
    _require_another(above, command.delegated_by, asked)
    return [DelegationRevoked(agent_id=command.agent_id, delegated_by=command.delegated_by)]


def _stop(agent: Agent, command: StopAgent, asked: Asked) -> list[AgentEvent]:
    # Who answers for it now: since it was registered, somebody else may have been named (access.owner_changed).
    registration: Registration = asked.others.get(actor_stream(command.agent_id), Registration())
    owner = registration.actor.owner if registration.actor else agent.owner
    require(
        bool(asked.by.roles & STOPPERS) or asked.by.actor == owner,
        "not_the_owner",
        f"{asked.by.actor} does not answer for {command.agent_id}.",
        field="agent_id",
        owner=owner,
        remedy="Ask its owner, or anybody who is an administrator, an approver or an auditor.",
    )
    if agent.stopped:
        return []
    return [AgentStopped(agent_id=command.agent_id, reason=command.reason, stopped_by=asked.by.actor)]


def _resume(agent: Agent, command: ResumeAgent, asked: Asked) -> list[AgentEvent]:
    if not agent.stopped:
        return []
    _require_another(agent, command.agent_id, asked)
    return [AgentResumed(agent_id=command.agent_id, reason=command.reason)]


def _require_another(agent: Agent, agent_id: str, asked: Asked) -> None:
    """Four eyes: whoever stopped an agent does not also decide that it, or a delegate of it, may act again."""
    require(
        not agent.stopped or asked.by.actor != agent.stopped_by,
        "resumed_by_stopper",
        f"{asked.by.actor} stopped {agent_id}: somebody else has to agree that it or a delegate of it may act again.",
        field="agent_id",
        stopped_by=agent.stopped_by,
        remedy="Ask another administrator.",
    )


def request(action: ToolAction, command: RequestAction, asked: Asked) -> list[ActionRequested]:
    require(
        asked.by.actor == command.agent_id,
        "not_the_agent",
        f"{asked.by.actor} cannot ask in the name of {command.agent_id}.",
        field="agent_id",
        remedy="An agent asks for itself, with a key of its own.",
    )
    require(
        action.requested is None,
        "action_exists",
        f"Agent {command.agent_id} has asked for {command.request_id} already, and may do it.",
        field="request_id",
        remedy="Give every tool call an id of its own.",
    )
    known: Mapping[str, Dataset | None] = {dataset_id: asked.others[dataset_stream(dataset_id)] for dataset_id in command.datasets}
    unknown = sorted(dataset_id for dataset_id, dataset in known.items() if dataset is None)
    require(
        not unknown,
        "dataset_not_found",
        f"The catalog knows no dataset {', '.join(unknown)}; nobody can say what it holds.",
        field="datasets",
        unknown=unknown,
        remedy="Register it first, or leave it out.",
    )
    outdated = sorted(_outdated(known, command.facts))
    require(
        not outdated,
        "facts_outdated",
        f"Datasets {', '.join(outdated)} are classified otherwise than they were when the policies judged this.",
        field="datasets",
        outdated=outdated,
        remedy="Ask again: it is judged on what they are now.",
    )
    requested = ActionRequested(
        request_id=command.request_id, agent_id=command.agent_id, tool=command.tool, purpose=command.purpose, datasets=command.facts
    )
    return [requested]


def _outdated(known: Mapping[str, Dataset | None], facts: tuple[DatasetFacts, ...]) -> Iterator[str]:
    """Datasets of which the facts say something else than their streams do: facts come from read models, and those may lag."""
    seen = {dataset.dataset_id: dataset for dataset in facts}
    for dataset_id, dataset in known.items():
        assert dataset is not None, "unknown datasets are refused before"
        told = seen.get(dataset_id, DatasetFacts(dataset_id=dataset_id))
        profile, status = dataset.profile, "deprecated" if dataset.deprecated else "active"
        is_now = (profile.pii_level, profile.jurisdiction, profile.environment, status, contract_status(dataset.contract))
        if is_now != (told.pii_level, told.jurisdiction, told.environment, told.status, told.contract):
            yield dataset_id


def _facts(_action: ToolAction, command: RequestAction) -> JsonObject:
    """All datasets as one: the most personal, the widest jurisdiction, production if any of it is, fresh if all of it is."""
    seen = command.facts
    levels = {dataset.pii_level for dataset in seen}
    jurisdictions = {dataset.jurisdiction for dataset in seen if dataset.jurisdiction}
    environments = {dataset.environment for dataset in seen}
    return {
        "tool": command.tool,
        "pii_level": next((level for level in ("high", "low", "none") if level in levels), None),
        "jurisdiction": "multi" if len(jurisdictions) > 1 else next(iter(jurisdictions), None),
        "environment": next((name for name in ("production", "staging", "dev") if name in environments), None),
        "contracts": sorted({dataset.contract for dataset in seen}),
        "statuses": sorted({dataset.status or "unknown" for dataset in seen}),
        "fresh": all(dataset.fresh is not False for dataset in seen),
        "lineage_depth": max((dataset.lineage_depth for dataset in seen), default=0),
        "becomes": {},
    }


def _agent_facts(agent: Agent, _command: AgentCommand) -> dict[str, Any]:
    return {"registered": agent.registered, "stopped": agent.stopped, "delegated": agent.delegated_by is not None}


AGENTS: Final[Decider[Agent, AgentCommand, AgentEvent]] = Decider(
    context="agents",
    category="agent",
    initial=Agent(),
    evolve=evolve,
    decide=decide,
    commands=(RegisterAgent, Delegate, RevokeDelegation, StopAgent, ResumeAgent),
    events=(AgentRegistered, AgentDelegated, DelegationRevoked, AgentStopped, AgentResumed),
    entity=lambda command: command.agent_id,
    facts=_agent_facts,
)
TOOL_ACTIONS: Final[Decider[ToolAction, RequestAction, ActionRequested]] = Decider(
    context="agents",
    category="tool",
    initial=ToolAction(),
    evolve=tool_action,
    decide=request,
    commands=(RequestAction,),
    events=(ActionRequested,),
    entity=lambda command: f"{command.agent_id}.{command.request_id}",
    facts=_facts,
)
DECIDERS: Final = (AGENTS, TOOL_ACTIONS)
