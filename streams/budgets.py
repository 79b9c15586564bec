"""What follows from money that is spent: whoever opened the budget is told, and agents are stopped where the budget says so."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from commands.agents import StopAgent
from commands.notifications import Notify
from domain.budgets import ThresholdReached, root_of
from domain.kernel import Command, Recorded, timestamp
from domain.values import Money
from projections.budgets import budgets, reservations
from streams.reactions import Reaction, ReadRows
from streams.sagas import Saga, Step, Story, Wanted
from streams.telling import TEXT_LENGTH, cut, news, notice_id, registered

LATELY: Final = timedelta(hours=24)
"""An agent that reserved money so short a while ago is about to do so again."""
STOP: Final = "stop_agents"
HOUR_SECONDS: Final = 3_600.0


async def pauses_agents(recorded: Recorded[ThresholdReached], reads: ReadRows) -> bool:
    """Whether this is the share of the limit at which the budget says that agents are stopped."""
    row = await reads.row(budgets, recorded.tenant, recorded.event.budget_id)
    return row is not None and row["pause_agents_at_percent"] == recorded.event.threshold_percent


async def stop_agents(story: Story) -> list[Wanted]:
    """Every agent that holds money on the budget or below it, or took some there lately."""
    recorded: Recorded[ThresholdReached] = story.cause
    tenant, budget_id = recorded.tenant, recorded.event.budget_id
    tree = {"root_id": root_of(budget_id)}
    since = timestamp(recorded.at - LATELY)
    held = await story.reads.rows(reservations, tenant, {**tree, "status": "reserved"})
    taken = await story.reads.rows_since(reservations, tenant, tree, "reserved_at", since)
    agents = {row["reserved_by"] for row in (*held, *taken) if f"{row['budget_id']}.".startswith(f"{budget_id}.")}
    reason = f"{await _figures(recorded, story.reads)}: agents pause there."
    return [Wanted(StopAgent(agent_id=agent, reason=reason)) for agent in sorted(agents) if agent.startswith("agt-")]


async def tell_what_was_stopped(story: Story) -> list[Wanted]:
    """Tells whoever opened the budget which agents were stopped, and which could not be."""
    recorded: Recorded[ThresholdReached] = story.cause
    stopped = ", ".join(answer.stream.partition(":")[2] for answer in story.answers(STOP)) or "none had money on it"
    still = "; ".join(f"{(failure.stream or 'an agent').partition(':')[2]}: {failure.message}" for failure in story.failures(STOP))
    text = f"{await _figures(recorded, story.reads)}. Stopped: {stopped}.{f' Could not be stopped: {still}' if still else ''}"
    remedy = " Fund it, and have an administrator resume them."
    return [Wanted(notice) for notice in await _notices(recorded, story.reads, "agents_paused", text + remedy)]


async def tell_opener(recorded: Recorded[ThresholdReached], reads: ReadRows) -> list[Command]:
    """Tells whoever opened the budget how far it is used; where agents are stopped as well, the saga tells of both."""
    then = reads.at(recorded.position)
    if await pauses_agents(recorded, then):
        return []
    text = f"{await _figures(recorded, then)}."
    return [*await news(await _notices(recorded, reads, "budget_threshold", text), recorded.tenant, reads)]


async def _notices(recorded: Recorded[ThresholdReached], reads: ReadRows, kind: str, text: str) -> list[Notify]:
    event, tenant = recorded.event, recorded.tenant
    row = await _row(recorded, reads)
    return [
        Notify(
            notification_id=notice_id(kind, recipient, str(recorded.id)),
            recipient=recipient,
            kind=kind,
            subject=cut(f"Budget {event.budget_id} is {event.threshold_percent} % used"),
            text=cut(text, TEXT_LENGTH),
            about=recorded.stream,
        )
        for recipient in await registered([row["opened_by"]], tenant, reads)
    ]


async def _figures(recorded: Recorded[ThresholdReached], reads: ReadRows) -> str:
    event = recorded.event
    currency = (await _row(recorded, reads))["currency"]
    used, limit = (Money(minor=minor, currency=currency) for minor in (event.used_minor, event.limit_minor))
    return f"Budget {event.budget_id} has {used} of {limit} promised or spent, {event.threshold_percent} % or more"


async def _row(recorded: Recorded[ThresholdReached], reads: ReadRows) -> dict[str, Any]:
    row = await reads.row(budgets, recorded.tenant, recorded.event.budget_id)
    assert row is not None, "the read models have seen the budget"
    return row


REACTIONS: Final = (Reaction("budget_threshold_notifies_opener", (ThresholdReached,), tell_opener),)
SAGAS: Final = (
    Saga(
        "spent_budget_pauses_agents",
        (ThresholdReached,),
        pauses_agents,
        # Whoever is stopped stays stopped, whatever becomes of the rest: that is the safe side, so nothing is undone.
        (Step(STOP, stop_agents, each_alone=True), Step("tell_opener", tell_what_was_stopped)),
        timeout_seconds=HOUR_SECONDS,
    ),
)
