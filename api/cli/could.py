"""`aureus could`: what an actor could read at a past moment, and who could read a dataset - with what decided it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from api.cli.client import Client, Json, path
from api.cli.options import client_of, output_of
from api.cli.output import Column, Output, Row, amount, moment

app = typer.Typer()
could = typer.Typer(help="Who could read what, now or at a past moment (--as-of), and what decided it.", no_args_is_help=True)
app.add_typer(could, name="could")

PAGE_ROWS = 1_000
Tool = Annotated[str | None, typer.Option("--tool", metavar="TOOL", help="The tool an agent would have called; `read` if not given.")]
Verdict = Annotated[
    str | None, typer.Option("--verdict", metavar="VERDICT", help="Only these: allowed, approved, needs_approval or blocked.")
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many to judge at most.")]


def _because(row: Row) -> str:
    """What decided it: the policies of the strictest outcome, or the refusal that came before any policy was asked."""
    wanted = {"allowed": "allow", "blocked": "block"}.get(row["verdict"], "require_approval")
    named = [
        f"{one['policy']} v{one['version']}" if one["version"] else one["policy"] for one in row["policies"] if one["outcome"] == wanted
    ]
    return ", ".join(dict.fromkeys(named)) or row["code"]


def _approval(row: Row) -> str | None:
    """The approval that made the difference, who gave it and until when."""
    covering = next((one for one in row["approvals"] if one["covers"]), None)
    if covering is None:
        return None
    given_by = " and ".join(one["approver"] for one in covering["given_by"])
    return f"{covering['approval_id']} by {given_by} until {moment(covering['expires_at'])}"


VERDICT = (Column("verdict", "verdict"), Column("because of", _because), Column("approval", _approval))
DATASETS = (Column("dataset", "dataset_id"), Column("PII", "pii_level"), Column("under", "jurisdiction"), *VERDICT)
ACTORS = (Column("actor", "actor_id"), Column("roles", "roles"), Column("status", "status"), *VERDICT)
BUDGETS = (
    Column("budget", "budget_id"),
    Column("status", "status"),
    amount("left", "left_minor"),
    amount("held by it", "held_minor"),
    amount("spent by it", "spent_minor"),
    Column("", "currency"),
)


@could.command()
def read(
    context: typer.Context,
    actor_id: Annotated[str, typer.Argument(metavar="ACTOR", help="A person, an agent or a service, such as agt-cleaner.")],
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="DATASET", help="Only this dataset, with the whole story.")] = None,
    domain: Annotated[str | None, typer.Option("--domain", metavar="DOMAIN", help="Only the datasets of this domain.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", metavar="COMMAND", help="agents.request_action or catalog.record_usage; the actor's own.")
    ] = None,
    tool: Tool = None,
    verdict: Verdict = None,
    limit: Limit = PAGE_ROWS,
) -> None:
    """Tell what an actor could read, under which policies and approvals, and what was left of its budgets."""
    asked = {"dataset": dataset, "domain": domain, "action": action, "tool": tool, "verdict": verdict}
    found = _judged(client_of(context), path("could", actor_id), limit, **asked)
    out = output_of(context)
    if out.as_json:
        return out.json(found)
    _tell(out, found, DATASETS)
    if found["budgets"]:
        out.table(found["budgets"], BUDGETS)
    if dataset is not None:
        for item in found["items"]:
            _tell_why(out, item)
    return None


@could.command()
def see(
    context: typer.Context,
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="Such as crm.leads.")],
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only these: person, agent or service.")] = None,
    tool: Tool = None,
    verdict: Verdict = None,
    limit: Limit = PAGE_ROWS,
) -> None:
    """Tell who could read a dataset, and which policies, roles and approvals were behind it."""
    found = _judged(client_of(context), path("could-see", dataset_id), limit, kind=kind, tool=tool, verdict=verdict)
    out = output_of(context)
    if out.as_json:
        return out.json(found)
    return _tell(out, found, ACTORS)


def _judged(client: Client, where: str, limit: int, **asked: str | None) -> Json:
    """Up to `limit` verdicts, page by page, in the shape of one page; all of one moment, whatever happens meanwhile."""
    found: Json = client.one(where, **asked, limit=min(limit, PAGE_ROWS))
    judged = page_rows = sum(found["counts"].values())
    cursor = found["next_cursor"]
    while cursor is not None and judged < limit and page_rows:
        at = {} if client.said.as_of else {"as_of": found["as_of"]["at"]}
        page = client.one(where, **asked, **at, cursor=cursor, limit=min(limit - judged, PAGE_ROWS))
        found["items"] += page["items"]
        found["counts"] = {verdict: count + page["counts"][verdict] for verdict, count in found["counts"].items()}
        page_rows, cursor = sum(page["counts"].values()), page["next_cursor"]
        judged += page_rows
    return {**found, "next_cursor": cursor}


def _tell(out: Output, found: Row, columns: Sequence[Column]) -> None:
    as_of = found["as_of"]
    out.text(f"As of position {as_of['position']}, {moment(as_of['at'])} UTC, under {len(found['in_force']['policies'])} policies:")
    out.text(found["explanation"])
    if found["items"]:
        out.table(found["items"], columns)
    for one in found["unmasking"]:
        whose = one["subject_id"] or "everybody"
        given = f"granted by {one['granted_by']} until {moment(one['until'])} UTC"
        out.text(f"{one['actor_id']} could see personal values of {whose} kept for {', '.join(one['purposes'])}: {given}.")
    if found["next_cursor"]:
        out.note(f"There are more than these {sum(found['counts'].values())}: see them with --limit.")


def _tell_why(out: Output, item: Row) -> None:
    """What each policy said of one dataset, and every approval there was for it."""
    for said in item["policies"]:
        version = f" v{said['version']}" if said["version"] else ""
        out.text(f"  {said['policy']}{version}: {said['outcome']}, {said['reason']}")
    for one in item["approvals"]:
        given_by = " and ".join(approver["approver"] for approver in one["given_by"])
        covers = "covers it" if one["covers"] else f"does not cover it: {one['why_not']}"
        request = f" for {one['request_id']} ({one['purpose']})" if one["request_id"] else ""
        out.text(f"  approval {one['approval_id']}{request}, by {given_by}, until {moment(one['expires_at'])} UTC: {covers}")
