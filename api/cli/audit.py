"""`aureus audit`: who did what, when, why and with which outcome; what of it is unusual; and the proof that a stop held."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.client import Client, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, Output, Row, moment, when

app = typer.Typer()
audit = typer.Typer(help="The audit log: who did what, when, why and with which outcome.", no_args_is_help=True)
app.add_typer(audit, name="audit")

PAGE_ROWS = 500
SHOWN_ACTIONS = 3
Outcome = Annotated[str | None, typer.Option("--outcome", help="allowed, blocked or requires_approval.")]
Stream = Annotated[str | None, typer.Option("--stream", help="Only those on this, such as budget:eu-lake.")]
Actor = Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Only those of this actor.")]
CommandName = Annotated[
    str | None, typer.Option("--command", metavar="NAME", help="Only those of this command, such as budgets.reserve_funds.")
]
AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="Such as agt-cleaner.")]

COLUMNS = (
    when("at", "timestamp"),
    Column("action", "id"),
    Column("command", "action"),
    Column("on", "stream"),
    Column("actor", "actor_id"),
    Column("outcome", "outcome"),
    Column("why", lambda row: row.get("code") or row.get("reason")),
)
PROPERTIES = ("timestamp", "actor_id", "action", "stream", "intent", "outcome", "code", "message", "reason", "guard", "outputs")
STYLES = {"allowed": "green", "blocked": "red", "requires_approval": "yellow"}


@audit.command("list")
def list_(
    context: typer.Context,
    actor: Actor = None,
    command: CommandName = None,
    outcome: Outcome = None,
    stream: Stream = None,
    artifact: Annotated[str | None, typer.Option("--artifact", metavar="SHA256", help="Only those that rest on this artifact.")] = None,
    search: Search = None,
    sort: Sort = "-position",
    limit: Limit = 50,
) -> None:
    """List actions, refused ones too, the latest first."""
    filters = {"actor_id": actor, "action": command, "outcome": outcome, "stream": stream, "artifacts": artifact, "q": search, "sort": sort}
    output_of(context).rows(client_of(context).rows(path("actions"), limit, **filters), COLUMNS)


@audit.command()
def show(
    context: typer.Context,
    action_id: Annotated[str | None, typer.Argument(metavar="[ACTION]", help="The id a command answers with: its audit entry.")] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", metavar="AGENT", help="Instead: what this agent and its delegates did, and what was done to it."),
    ] = None,
    actor: Actor = None,
    stream: Stream = None,
    since: Annotated[int, typer.Option("--since-position", metavar="POSITION", min=0, help="Only what came after it.")] = 0,
    limit: Limit = 200,
) -> None:
    """Show the audit entry of an action, or a timeline of actions with the way of each through the Guard."""
    client, out = client_of(context), output_of(context)
    if action_id is not None:
        return out.record(client.one(path("actions", action_id)), f"Action {action_id}", PROPERTIES)
    wanted: list[dict[str, Any]]
    if agent is not None:
        wanted = [{"actor_id": [agent, *_delegates(client, agent)]}, {"stream": f"agent:{agent}"}]
    else:
        wanted = [{"actor_id": actor, "stream": stream}]
    entries = {row["position"]: row for filters in wanted for row in _since(client, since, limit, filters)}
    latest = [entries[position] for position in sorted(entries)][-limit:]
    if out.as_json:
        return out.json({"items": latest})
    if not latest:
        return out.note("Nothing was asked for.")
    for row in latest:
        _tell(out, row)
    return None


@audit.command()
def proof(context: typer.Context, agent_id: AgentId) -> None:
    """Prove that nothing of a stopped agent or its delegates was allowed after it was stopped; exit code 8 when it cannot be proved."""
    client, out = client_of(context), output_of(context)
    found = client.one(path("audit", "stopped", agent_id))
    if out.as_json:
        out.json(found)
    else:
        _tell_proof(out, found)
    if not found["proved"]:
        first = found["contradictions"][0]
        message = f"It is not proved that the stop of {agent_id} held: {first['what']} {first['id']}."
        remedy = "If something is still held, ask again in a moment: it is released behind the stop. Otherwise run `aureus verify`."
        raise Failure(ExitCode.NOT_VERIFIED, "stop_not_proved", message, contradictions=len(found["contradictions"]), remedy=remedy)


@audit.command()
def anomalies(
    context: typer.Context,
    since: Annotated[str | None, typer.Option("--since", metavar="DAY", help="The first day to look at; a week ago if not given.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DAY", help="The last day to look at; today if not given.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Only what is unusual about this actor.")] = None,
) -> None:
    """Find what is unusual: each actor's days against their own past and their role's, and who approves whom."""
    client, out = client_of(context), output_of(context)
    found = client.one(path("audit", "anomalies"), since=since, until=until, actor=actor)
    if out.as_json:
        return out.json(found)
    read = f"compared with what was usual since {found['history_since'][:10]} ({found['actions_read']} actions)"
    number = "1 finding" if found["found"] == 1 else f"{found['found']} findings"
    out.text(f"{number} from {found['since'][:10]} to {found['until'][:10]}, {read}.")
    for one in found["findings"]:
        out.text(f"\n{one['kind'].replace('_', ' ')}, score {one['score']}\n  {one['explanation']}")
        shown = one["action_ids"][:SHOWN_ACTIONS]
        more = f" and {one['actions'] - len(shown)} more" if one["actions"] > len(shown) else ""
        out.text(f"  actions {' '.join(shown)}{more}")
    for one in found["unjudged"]:
        out.note(f"{one['actor']}: {one['reason']}.")
    for note in found["notes"]:
        out.note(note)
    return None


def _delegates(client: Client, agent_id: str) -> list[str]:
    """All who act for an agent now, directly or not."""
    found: list[str] = []
    latest = [agent_id]
    while latest:
        rows = client.rows(path("agents"), PAGE_ROWS, delegated_by=latest)["items"]
        latest = [row["agent_id"] for row in rows if row["agent_id"] not in (agent_id, *found)]
        found += latest
    return found


def _since(client: Client, position: int, limit: int, filters: dict[str, Any]) -> list[Row]:
    """The latest actions after a position."""
    rows: list[Row] = client.rows(path("actions"), limit, sort="-position", **filters)["items"]
    return [row for row in rows if row["position"] > position]


def _tell(out: Output, row: Row) -> None:
    """One action: what was asked, how it ended and why, and its way through the Guard."""
    from rich.text import Text

    out.console.print(
        Text.assemble(
            (f"{row['position']:>7}  {moment(row['timestamp'])}  ", "dim"),
            (f"{row['outcome']:<17}", STYLES[row["outcome"]]),
            f"  {row['actor_id']}  {row['action']} on {row['stream']}",
        )
    )
    told = [" > ".join(f"{step['state']} {step['after_us']} us" for step in row["guard"])]
    told += [f"{row['code']}: {row['message']}"] if row["code"] else []
    told += [f"{check['policy']}: {check['outcome']}, {check['reason']}" for check in row["policyResults"] if check["outcome"] != "allow"]
    told += [f"because: {row['reason']}"] if row["reason"] else []
    for line in filter(None, told):
        out.console.print(Text(f"         {line}", style="dim"))


def _tell_proof(out: Output, found: Row) -> None:
    stop, resumed = found["stop"], found["resumed"]
    delegates = f" with its delegates {', '.join(found['delegates'])}" if found["delegates"] else ""
    end = f"position {found['until']}, where it was resumed" if resumed else f"position {found['until']}"
    out.text(f"Agent {found['agent_id']} was stopped{delegates} at position {stop['position']}, {moment(stop['at'])}, by {stop['by']}.")
    out.text(f"  because   {found['reason']}")
    out.text(f"  event     {stop['event_id']}")
    out.text(f"  leaf      {stop['leaf']}")
    out.text(f"  checkpoint of {found['checkpoint_size']} events, signed")
    out.text(f"Of their actions {found['actions_before']} came before. From there to {end}, read from the ledger itself:")
    out.text(f"  allowed   {found['allowed_after']}")
    out.text(f"  blocked   {found['blocked_after']}")
    out.text(f"Still held: {found['reservations_held']} reservations, {found['approvals_live']} approvals.")
    for event in found["delegations"]:
        out.text(f"  {event['type']} at position {event['position']} by {event['by']}")
    for one in found["contradictions"]:
        out.text(f"  contradicts it: {one['what']} {one['id']}" + (f" at position {one['position']}" if one["position"] else ""))
    out.text("Proved." if found["proved"] else "Not proved.")
