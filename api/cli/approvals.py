"""`aureus approvals`: consent of somebody else to one exact action."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import path
from api.cli.options import Comment, Limit, Search, Sort, client_of, json_of, output_of, pairs
from api.cli.output import Column, Row, amount, when

app = typer.Typer()
approvals = typer.Typer(help="Consent of somebody else to one exact action.", no_args_is_help=True)
app.add_typer(approvals, name="approvals")

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="The id of the request.")]
OnBehalfOf = Annotated[str | None, typer.Option("--for", metavar="ACTOR", help="Decide for this person, who delegated that to you.")]
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
COLUMNS = (
    Column("approval", "approval_id"),
    Column("type", "type"),
    Column("risk", "risk_level"),
    Column("status", "status"),
    Column("asks for", lambda row: row.get("command") or row["description"]),
    Column("requester", "requester"),
    Column("agreed", lambda row: f"{row['agreed_count']} of {row['quorum']}"),
    when("expires", "expires_at"),
)
PROPERTIES = (
    "description",
    "status",
    "type",
    "risk_level",
    "command",
    "inputs",
    "stream",
    "seen_version",
    "requester",
    "approver_roles",
    "escalated_to",
    "quorum",
    "agreed_count",
    "evidence",
    "carry_out",
)
DECISION_COLUMNS = (
    Column("approver", "approver"),
    Column("for", "on_behalf_of"),
    Column("decision", "decision"),
    Column("roles", "roles"),
    Column("comment", "comment"),
    when("at", "at"),
)
POLICY_COLUMNS = (Column("policy", "policy"), Column("answer", "outcome"), Column("reason", "reason"))
DOWNSTREAM_COLUMNS = (
    Column("made from it", "dataset_id"),
    Column("steps", "distance", right=True),
    Column("pii", "pii_level"),
    Column("jurisdiction", "jurisdiction"),
)
WAITING_COLUMNS = (Column("also waits for it", "approval_id"), Column("status", "status"), Column("requester", "requester"))
RESERVATION_COLUMNS = (
    Column("reservation held", "reservation_id"),
    Column("on", "budget_id"),
    amount("amount", "amount_minor"),
    Column("by", "reserved_by"),
)
BLAST_RADIUS = (
    ("downstream", DOWNSTREAM_COLUMNS),
    ("pipelines", (Column("pipeline on it", "pipeline_id"), Column("environment", "environment"), Column("status", "status"))),
    ("approvals", WAITING_COLUMNS),
    ("reservations", RESERVATION_COLUMNS),
    ("agents", (Column("agent that used it", "agent_id"), Column("status", "status"))),
    ("requester_reservations", (Column("requester holds", "reservation_id"), *RESERVATION_COLUMNS[1:3])),
    ("requester_agents", (Column("requester's agent", "actor_id"), Column("status", "status"))),
)
DELEGATION_COLUMNS = (
    Column("delegation", "delegation_id"),
    Column("from", "delegator"),
    Column("to", "delegate"),
    Column("types", lambda row: ", ".join(row["types"]) or "all"),
    Column("risk up to", "risk_up_to"),
    when("starts", "starts_at"),
    when("ends", "ends_at"),
    Column("status", "status"),
)


@approvals.command()
def request(
    context: typer.Context,
    description: Annotated[str, typer.Argument(metavar="DESCRIPTION", help="What is asked for, in words.")],
    command: Annotated[str | None, typer.Option("--command", metavar="NAME", help="The command, such as budgets.fund_budget.")] = None,
    field: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="NAME=VALUE", help="One of its inputs; JSON values as JSON; repeatable.")
    ] = None,
    inputs: Annotated[Path | None, typer.Option("--inputs", metavar="FILE", help="All its inputs, as a JSON file.")] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="SHA256", help="Instead of a command: the digest of what it is about.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="action, dataset_onboard, pii_access, pipeline_deploy or policy_change. [action]")
    ] = None,
    risk: Annotated[str | None, typer.Option("--risk", help="low, medium or high. [medium]")] = None,
    stream: Annotated[str | None, typer.Option("--stream", help="What it would change, such as budget:eu-lake.")] = None,
    seen_version: Annotated[
        int | None, typer.Option("--seen-version", min=0, help="The version you saw of that: consent is to a change of this one.")
    ] = None,
    approver_role: Annotated[list[str] | None, typer.Option("--approver-role", help="Who may decide; repeatable. [approver]")] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", min=1, max=20, help="How many have to agree. [1]")] = None,
    hours: Annotated[float | None, typer.Option("--hours", min=0.01, help="How long it stays open. [72]")] = None,
    carry_out: Annotated[bool, typer.Option("--carry-out", help="Have it carried out on your behalf as soon as it is approved.")] = False,
    approval_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Its id; made up when not given.")] = None,
) -> None:
    """Request consent to a command with its inputs, or to a thing known by its digest."""
    body = {
        "approval_id": approval_id or f"apr-{uuid.uuid4()}",
        "description": description,
        "command": command,
        "inputs": _inputs(inputs, field or []),
        "action_digest": digest,
        "type": kind,
        "risk_level": risk,
        "stream": stream,
        "seen_version": seen_version,
        "approver_roles": approver_role or None,
        "quorum": quorum,
        "expires_at": (datetime.now(UTC) + timedelta(hours=hours)).isoformat() if hours else None,
        "carry_out": carry_out or None,
    }
    result = client_of(context).ask(path("approvals"), body)
    output_of(context).done(result, f"Requested approval {body['approval_id']}")


@approvals.command("carry-out")
def carry_out(context: typer.Context, approval_id: ApprovalId) -> None:
    """Have your request carried out on your behalf as soon as it is approved, or now that it is."""
    result = client_of(context).ask(path("approvals", approval_id, "carry-out"), {})
    output_of(context).done(result, f"{approval_id} is carried out on your behalf as soon as it is approved.")


@approvals.command()
def approve(context: typer.Context, approval_id: ApprovalId, on_behalf_of: OnBehalfOf = None, comment: Comment = None) -> None:
    """Agree to what is requested; nobody can agree to their own request."""
    body = {"on_behalf_of": on_behalf_of, "comment": comment}
    result = client_of(context).ask(path("approvals", approval_id, "approve"), body)
    granted = any(event["type"] == "approvals.approval_granted" for event in result["events"])
    output_of(context).done(result, f"Approved {approval_id}." if granted else f"Agreed to {approval_id}; it needs more approvers.")


@approvals.command()
def reject(
    context: typer.Context,
    approval_id: ApprovalId,
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why, and what would have to change.")],
    on_behalf_of: OnBehalfOf = None,
) -> None:
    """Say no to what is requested, and why."""
    body = {"on_behalf_of": on_behalf_of, "comment": comment}
    result = client_of(context).ask(path("approvals", approval_id, "reject"), body)
    output_of(context).done(result, f"Rejected {approval_id}.")


@approvals.command()
def withdraw(context: typer.Context, approval_id: ApprovalId, comment: Comment = None) -> None:
    """Take back your own request."""
    result = client_of(context).ask(path("approvals", approval_id, "withdraw"), {"comment": comment})
    output_of(context).done(result, f"Withdrew {approval_id}.")


@approvals.command()
def expire(context: typer.Context, approval_id: ApprovalId) -> None:
    """Put on record that a request's time has passed."""
    result = client_of(context).ask(path("approvals", approval_id, "expire"), {})
    output_of(context).done(result, f"Expired {approval_id}.")


@approvals.command()
def escalate(context: typer.Context, approval_id: ApprovalId) -> None:
    """Let administrators decide too on a request that has waited for too long."""
    result = client_of(context).ask(path("approvals", approval_id, "escalate"), {})
    output_of(context).done(result, f"Escalated {approval_id}.")


@approvals.command()
def void(
    context: typer.Context,
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option("--because", "-m", metavar="TEXT", help="Why it must not be used.")],
) -> None:
    """Take an approval out of force, granted or not."""
    result = client_of(context).ask(path("approvals", approval_id, "void"), {"reason": reason})
    output_of(context).done(result, f"Voided {approval_id}.")


@approvals.command()
def delegate(
    context: typer.Context,
    delegate: Annotated[str, typer.Argument(metavar="ACTOR", help="The person who is to decide for you.")],
    ends: Annotated[datetime, typer.Option("--until", formats=DATES, help="First moment after it, in UTC.")],
    starts: Annotated[datetime | None, typer.Option("--from", formats=DATES, help="First moment of it, in UTC. [now]")] = None,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only requests of this type; repeatable. [all]")] = None,
    risk_up_to: Annotated[str | None, typer.Option("--risk", help="Only requests up to this risk: low, medium or high. [high]")] = None,
    comment: Comment = None,
) -> None:
    """Let another person decide on requests for you, for a time."""
    body = {
        "delegate": delegate,
        "types": kind or None,
        "risk_up_to": risk_up_to,
        "starts_at": _utc(starts),
        "ends_at": _utc(ends),
        "comment": comment,
    }
    result = client_of(context).ask(path("delegations"), body)
    given = result["events"][0]["data"]["delegation_id"]
    output_of(context).done(result, f"{delegate} decides for you until {_utc(ends)}: delegation {given}")


@approvals.command()
def revoke(
    context: typer.Context,
    delegation_id: Annotated[str, typer.Argument(metavar="DELEGATION", help="The id that `delegate` answered with.")],
    comment: Comment = None,
) -> None:
    """End a delegation before its time."""
    result = client_of(context).ask(path("delegations", delegation_id, "revoke"), {"comment": comment})
    output_of(context).done(result, f"Revoked {delegation_id}.")


@approvals.command()
def delegations(
    context: typer.Context,
    delegator: Annotated[str | None, typer.Option("--from", metavar="ACTOR", help="Only those that this person gave.")] = None,
    delegate: Annotated[str | None, typer.Option("--to", metavar="ACTOR", help="Only those that this person holds.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="standing or revoked.")] = None,
    sort: Sort = "-ends_at",
    limit: Limit = 50,
) -> None:
    """List who decides for whom, and until when."""
    filters = {"delegator": delegator, "delegate": delegate, "status": status, "sort": sort}
    output_of(context).rows(
        client_of(context).rows(path("delegations"), limit, **filters), DELEGATION_COLUMNS, "Nobody decides for another."
    )


@approvals.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="pending, approved, rejected, withdrawn, expired, voided or used.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only those of this type.")] = None,
    requester: Annotated[str | None, typer.Option("--requester", metavar="ACTOR", help="Only those that this actor asked for.")] = None,
    risk: Annotated[str | None, typer.Option("--risk", help="Only those of this risk: low, medium or high.")] = None,
    command: Annotated[str | None, typer.Option("--command", metavar="NAME", help="Only those of this command.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List requests and how they stand."""
    filters = {"status": status, "type": kind, "requester": requester, "risk_level": risk, "command": command, "q": search, "sort": sort}
    output_of(context).rows(client_of(context).rows(path("approvals"), limit, **filters), COLUMNS, "No approval is listed.")


@approvals.command()
def show(context: typer.Context, approval_id: ApprovalId) -> None:
    """Show a request, why it was parked, what it would touch, and the decisions on it."""
    out = output_of(context)
    dossier = client_of(context).one(path("approvals", approval_id, "dossier"))
    if out.as_json:
        return out.json(dossier)
    tables = ("decisions", "policy_results", "pack", "blast_radius")
    out.record({key: value for key, value in dossier.items() if key not in tables}, f"Approval {approval_id}", PROPERTIES)
    shown = [(dossier["policy_results"], POLICY_COLUMNS), *_around(dossier["blast_radius"]), (dossier["decisions"], DECISION_COLUMNS)]
    for rows, columns in shown:
        if rows:
            out.table(rows, columns)
    return None


def _around(blast_radius: Row) -> list[tuple[list[Row], tuple[Column, ...]]]:
    return [(blast_radius[name], columns) for name, columns in BLAST_RADIUS]


def _utc(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _inputs(file: Path | None, fields: list[str]) -> dict[str, Any] | None:
    import json

    inputs = json_of(file) if file else {}
    if not isinstance(inputs, dict):
        raise typer.BadParameter(f"{file} holds no JSON object.", param_hint="--inputs")
    for name, text in pairs(fields, "--input"):
        try:
            inputs[name] = json.loads(text)
        except ValueError:
            inputs[name] = text
    return inputs or None
