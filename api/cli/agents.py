"""`aureus agents`: who answers for each agent, whom it acts for, what it may do with data - and how to stop it."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import Client, path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, Row, when

app = typer.Typer()
agents = typer.Typer(help="Agents: who answers for each, what it may do, and how to stop it.", no_args_is_help=True)
app.add_typer(agents, name="agents")

AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="Such as agt-cleaner.")]
By = Annotated[str, typer.Option("--by", metavar="AGENT", help="The agent it acts for.")]
Why = Annotated[str, typer.Option("--because", "-m", metavar="TEXT", help="Why; it goes on record.")]


def _stopped(row: Row) -> str | None:
    return row["stop"]["reason"] if row["status"] == "stopped" else None


COLUMNS = (
    Column("agent", "agent_id"),
    Column("label", "label"),
    Column("model", "model"),
    Column("owner", "owner"),
    Column("acts for", "delegated_by"),
    Column("status", "status"),
    Column("stopped because", _stopped),
)
PROPERTIES = ("label", "status", "stop", "delegated_by", "owner", "purpose", "model", "provider")
ACTION_COLUMNS = (
    when("at", "requested_at"),
    Column("agent", "agent_id"),
    Column("tool", "tool"),
    Column("datasets", "dataset_ids"),
    Column("purpose", "purpose"),
)


@agents.command()
def register(
    context: typer.Context,
    agent_id: AgentId,
    label: Annotated[str, typer.Option("--label", help="What people call it.")],
    purpose: Annotated[str, typer.Option("--purpose", help="What it is for.")],
    model: Annotated[str, typer.Option("--model", help="What it runs on.")],
    owner: Annotated[str, typer.Option("--owner", metavar="PERSON", help="Who answers for it, such as usr-ana.")],
    provider: Annotated[str | None, typer.Option("--provider", help="Who runs the model.")] = None,
) -> None:
    """Put on record what an agent is for, what it runs on, and which person answers for it."""
    body = {"agent_id": agent_id, "label": label, "purpose": purpose, "model": model, "provider": provider, "owner": owner}
    output_of(context).done(client_of(context).ask(path("agents"), body), f"Registered {agent_id}, for which {owner} answers.")


@agents.command()
def delegate(context: typer.Context, agent_id: AgentId, by: By) -> None:
    """Let an agent act for another one; it is stopped when that one is."""
    result = client_of(context).ask(path("agents", agent_id, "delegation"), {"delegated_by": by})
    output_of(context).done(result, f"{agent_id} acts for {by}.")


@agents.command()
def revoke(context: typer.Context, agent_id: AgentId, by: By) -> None:
    """End a delegation."""
    result = client_of(context).ask(path("agents", agent_id, "delegation", "revoke"), {"delegated_by": by})
    output_of(context).done(result, f"{agent_id} no longer acts for {by}.")


@agents.command()
def stop(context: typer.Context, agent_id: AgentId, because: Why) -> None:
    """Stop an agent and all its delegates, at once; what they reserved is released, what they wait for is voided."""
    result = client_of(context).ask(path("agents", agent_id, "stop"), {"reason": because})
    said = f"Stopped {agent_id} and its delegates" if result["events"] else f"{agent_id} was stopped already"
    output_of(context).done(result, f"{said}: `aureus audit proof {agent_id}` shows that nothing was allowed since.")


@agents.command()
def resume(context: typer.Context, agent_id: AgentId, because: Why) -> None:
    """Let a stopped agent act again; somebody else than the one who stopped it has to ask."""
    result = client_of(context).ask(path("agents", agent_id, "resume"), {"reason": because})
    output_of(context).done(result, f"{agent_id} may act again.")


@agents.command()
def request(
    context: typer.Context,
    agent_id: AgentId,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="The agent's own name for this call.")],
    tool: Annotated[str, typer.Option("--tool", help="What it would use, such as sql.query.")],
    purpose: Annotated[str, typer.Option("--purpose", help="What for.")],
    dataset: Annotated[list[str] | None, typer.Option("--dataset", metavar="DATASET", help="What it is for; repeatable.")] = None,
) -> None:
    """Ask, as the agent, to use a tool on datasets; it is judged on what these are at this moment."""
    body = {"request_id": request_id, "tool": tool, "datasets": dataset or [], "purpose": purpose}
    result = client_of(context).ask(path("agents", agent_id, "actions"), body)
    output_of(context).done(result, f"{agent_id} may use {tool}.")


@agents.command("list")
def list_(
    context: typer.Context,
    owner: Annotated[str | None, typer.Option("--owner", metavar="PERSON", help="Only those this person answers for.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="AGENT", help="Only those that act for this one.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="active or stopped.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List agents."""
    filters = {"owner": owner, "delegated_by": by, "status": status, "q": search, "sort": sort}
    output_of(context).rows(client_of(context).rows(path("agents"), limit, **filters), COLUMNS, "No agent is known.")


@agents.command()
def show(context: typer.Context, agent_id: AgentId) -> None:
    """Show an agent, whether it or one it acts for was stopped, and who acts for it."""
    client, out = client_of(context), output_of(context)
    row = client.one(path("agents", agent_id))
    if out.as_json:
        return out.json(row)
    stop = row["stop"] and f"at position {row['stop']['position']}, by {row['stop']['by']}: {row['stop']['reason']}"
    out.record({**row, "stop": stop}, f"Agent {agent_id}", PROPERTIES)
    if above := _stopped_above(client, row):
        out.text(f"It does not act: {above} was stopped, and it acts for that one.")
    delegates = client.rows(path("agents"), 50, delegated_by=agent_id)
    if delegates["items"]:
        out.rows(delegates, COLUMNS)
    return None


@agents.command()
def actions(
    context: typer.Context,
    agent: Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Only those of this agent.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", help="Only those with this tool.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="DATASET", help="Only those on this dataset.")] = None,
    sort: Sort = "-requested_at",
    limit: Limit = 50,
) -> None:
    """List the tool calls that were allowed, the latest first."""
    page = client_of(context).rows(path("tool-actions"), limit, agent_id=agent, tool=tool, dataset_ids=dataset, sort=sort)
    output_of(context).rows(page, ACTION_COLUMNS, "No tool call was allowed.")


def _stopped_above(client: Client, row: Row) -> str | None:
    """The nearest agent up the chain of delegation that was stopped."""
    seen: set[str] = set()
    above: str | None = row["delegated_by"]
    while above is not None and above not in seen:
        seen.add(above)
        row = client.one(path("agents", above))
        if row["status"] == "stopped":
            return above
        above = row["delegated_by"]
    return None
