"""An AI agent: who answers for it, who it acts for, whether it was stopped, and what it asked to do with data.

Stopping an agent stops every delegate below it: the command path looks up the whole chain before it lets an agent do anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, assert_never

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.kernel import Event, JsonObject
from domain.values import Identifier, Label, Text

AgentId = Annotated[str, StringConstraints(pattern=r"^agt-[a-z0-9][a-z0-9-]*$", max_length=64)]
OwnerId = Annotated[str, StringConstraints(pattern=r"^usr-[a-z0-9][a-z0-9-]*$", max_length=64)]
"""The person who answers for an agent."""
SomeText = Annotated[Text, Field(min_length=1)]
RequestId = Annotated[Identifier, StringConstraints(max_length=100)]
"""What the agent itself calls one tool call; sent again, it means the same call."""


class AgentRegistered(Event, name="agents.agent_registered"):
    """It is known from now on what the agent is for, what model it runs on, and who answers for it."""

    agent_id: AgentId
    label: Label
    purpose: SomeText
    model: Label
    provider: Label | None = None
    owner: OwnerId


class AgentDelegated(Event, name="agents.agent_delegated"):
    """The agent acts for another one from now on, and is stopped when that one is."""

    agent_id: AgentId
    delegated_by: AgentId


class DelegationRevoked(Event, name="agents.delegation_revoked"):
    """The agent acts for no other one any more."""

    agent_id: AgentId
    delegated_by: AgentId


class AgentStopped(Event, name="agents.agent_stopped"):
    """Nothing the agent or a delegate of it asks for is carried out from now on."""

    agent_id: AgentId
    reason: SomeText
    stopped_by: Identifier


class AgentResumed(Event, name="agents.agent_resumed"):
    """The agent may act again, and so may its delegates."""

    agent_id: AgentId
    reason: SomeText


AgentEvent = AgentRegistered | AgentDelegated | DelegationRevoked | AgentStopped | AgentResumed


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent; an agent that nobody registered can be stopped as well."""

    registered: bool = False
    owner: str | None = None
    delegated_by: str | None = None
    stopped: bool = False
    stopped_by: str | None = None


def evolve(agent: Agent, event: AgentEvent) -> Agent:
    match event:
        case AgentRegistered():
            return replace(agent, registered=True, owner=event.owner)
        case AgentDelegated():
            return replace(agent, delegated_by=event.delegated_by)
        case DelegationRevoked():
            return replace(agent, delegated_by=None)
        case AgentStopped():
            return replace(agent, stopped=True, stopped_by=event.stopped_by)
        case AgentResumed():
            return replace(agent, stopped=False, stopped_by=None)
        case _:
            assert_never(event)


def chain(agent_id: str, delegated_by: Mapping[str, str | None]) -> tuple[str, ...]:
    """The agent and everybody up its chain of delegation, itself first; a ring of delegations ends where it began."""
    found = [agent_id]
    while (above := delegated_by.get(found[-1])) is not None and above not in found:
        found.append(above)
    return tuple(found)


class DatasetFacts(BaseModel):
    """A dataset as it was when an agent asked to use it; of one that the catalog does not know, only its id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: Identifier
    pii_level: str | None = None
    jurisdiction: str | None = None
    environment: str | None = None
    status: str | None = None
    contract: str = "none"
    """The status its contract states, `unstated` where it states none, `none` without a contract."""
    fresh: bool | None = None
    """None: no freshness is promised."""
    lineage_depth: Annotated[int, Field(ge=0)] = 0
    """How many steps its upstream lineage reaches."""


def contract_status(contract: JsonObject | None) -> str:
    """What a dataset's contract says of itself, in one word."""
    return "none" if contract is None else str(contract.get("status", "unstated"))


class ActionRequested(Event, name="agents.action_requested"):
    """An agent may use a tool on these datasets, judged on what they were at that moment."""

    request_id: RequestId
    agent_id: AgentId
    tool: Identifier
    purpose: SomeText
    datasets: tuple[DatasetFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolAction:
    """One tool call that was allowed; empty until then."""

    requested: ActionRequested | None = None


def tool_action(_action: ToolAction, event: ActionRequested) -> ToolAction:
    return ToolAction(event)
