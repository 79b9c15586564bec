"""Agents as people read them: who answers for each, who it acts for, whether it was stopped - and the tool calls they were allowed."""

from domain.agents import ActionRequested, AgentDelegated, AgentRegistered, AgentResumed, AgentStopped, DelegationRevoked
from domain.kernel import JsonObject, Recorded
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class AgentRow:
    """One agent; what was registered of it is null while all that is known is that it was stopped.

    `status` is its own: a delegate of a stopped agent does not act either. `stop` says which event stopped it last, and where
    that stands in the ledger; it stays after the agent was resumed.
    """

    agent_id: str
    label: str | None
    purpose: str | None
    model: str | None
    provider: str | None
    owner: str | None
    registered_by: str | None
    registered_at: str | None
    delegated_by: str | None
    status: str
    stop: JsonObject | None
    resumed_at: str | None
    changed_at: str


@read_row
class ToolActionRow:
    """A tool call that an agent was allowed, and what it was to use as that was classified then."""

    tool_action_id: str
    agent_id: str
    request_id: str
    tool: str
    purpose: str
    datasets: list[JsonObject]
    dataset_ids: list[str]
    requested_at: str


agents = ReadTable(
    "agents",
    AgentRow,
    filters=("owner", "delegated_by", "status", "model", "provider"),
    sorts=("agent_id", "registered_at", "changed_at"),
    search=("agent_id", "label", "purpose"),
)
tool_actions = ReadTable(
    "tool_actions",
    ToolActionRow,
    filters=("agent_id", "tool", "dataset_ids"),
    sorts=("requested_at",),
    search=("tool", "purpose"),
    immutable=True,
)


def _unregistered(agent_id: str, at: str) -> AgentRow:
    return AgentRow(
        agent_id=agent_id,
        label=None,
        purpose=None,
        model=None,
        provider=None,
        owner=None,
        registered_by=None,
        registered_at=None,
        delegated_by=None,
        status="active",
        stop=None,
        resumed_at=None,
        changed_at=at,
    )


@agents.on(AgentRegistered)
def registered(row: AgentRow | None, recorded: Recorded[AgentRegistered], agent_id: str) -> AgentRow:
    event = recorded.event
    return replace(
        row or _unregistered(agent_id, recorded.at_text),
        label=event.label,
        purpose=event.purpose,
        model=event.model,
        provider=event.provider,
        owner=event.owner,
        registered_by=recorded.actor,
        registered_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@agents.on(AgentDelegated)
def delegated(row: AgentRow, recorded: Recorded[AgentDelegated], _agent_id: str) -> AgentRow:
    return replace(row, delegated_by=recorded.event.delegated_by, changed_at=recorded.at_text)


@agents.on(DelegationRevoked)
def delegation_revoked(row: AgentRow, recorded: Recorded[DelegationRevoked], _agent_id: str) -> AgentRow:
    return replace(row, delegated_by=None, changed_at=recorded.at_text)


@agents.on(AgentStopped)
def stopped(row: AgentRow | None, recorded: Recorded[AgentStopped], agent_id: str) -> AgentRow:
    stop = {
        "by": recorded.event.stopped_by,
        "reason": recorded.event.reason,
        "at": recorded.at_text,
        "position": recorded.position,
        "event_id": recorded.id_text,
        "leaf": recorded.leaf.hex(),
    }
    known = row or _unregistered(agent_id, recorded.at_text)
    return replace(known, status="stopped", stop=stop, resumed_at=None, changed_at=recorded.at_text)


@agents.on(AgentResumed)
def resumed(row: AgentRow, recorded: Recorded[AgentResumed], _agent_id: str) -> AgentRow:
    return replace(row, status="active", resumed_at=recorded.at_text, changed_at=recorded.at_text)


@tool_actions.on(ActionRequested)
def requested(_row: None, recorded: Recorded[ActionRequested], tool_action_id: str) -> ToolActionRow:
    event = recorded.event
    return ToolActionRow(
        tool_action_id=tool_action_id,
        agent_id=event.agent_id,
        request_id=event.request_id,
        tool=event.tool,
        purpose=event.purpose,
        datasets=[dataset.model_dump(mode="json", exclude_none=True) for dataset in event.datasets],
        dataset_ids=[dataset.dataset_id for dataset in event.datasets],
        requested_at=recorded.at_text,
    )


PROJECTION = Projection("agents", (agents, tool_actions), ordering="stream")
