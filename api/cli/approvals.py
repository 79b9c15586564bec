"""`aureus approvals`: consent of somebody else to one exact action."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import path
from api.cli.options import Comment, Limit, Search, Sort, client_of, json_of, output_of, pairs
from api.cli.output import Column, when

app = typer.Typer()
approvals = typer.Typer(help="Consent of somebody else to one exact action.", no_args_is_help=True)
app.add_typer(approvals, name="approvals")

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="The id of the request.")]
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
PROPERTIES = ("description", "status", "type", "risk_level", "command", "inputs", "requester", "approver_roles", "quorum", "agreed_count")
DECISION_COLUMNS = (
    Column("approver", "approver"),
    Column("decision", "decision"),
    Column("roles", "roles"),
    Column("comment", "comment"),
    when("at", "at"),
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
    approver_role: Annotated[list[str] | None, typer.Option("--approver-role", help="Who may decide; repeatable. [approver]")] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", min=1, max=20, help="How many have to agree. [1]")] = None,
    hours: Annotated[float | None, typer.Option("--hours", min=0.01, help="How long it stays open. [72]")] = None,
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
        "approver_roles": approver_role or None,
        "quorum": quorum,
        "expires_at": (datetime.now(UTC) + timedelta(hours=hours)).isoformat() if hours else None,
    }
    result = client_of(context).ask(path("approvals"), body)
    output_of(context).done(result, f"Requested approval {body['approval_id']}")


@approvals.command()
def approve(context: typer.Context, approval_id: ApprovalId, comment: Comment = None) -> None:
    """Agree to what is requested; nobody can agree to their own request."""
    result = client_of(context).ask(path("approvals", approval_id, "approve"), {"comment": comment})
    granted = any(event["type"] == "approvals.approval_granted" for event in result["events"])
    output_of(context).done(result, f"Approved {approval_id}." if granted else f"Agreed to {approval_id}; it needs more approvers.")


@approvals.command()
def reject(
    context: typer.Context,
    approval_id: ApprovalId,
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why, and what would have to change.")],
) -> None:
    """Say no to what is requested, and why."""
    result = client_of(context).ask(path("approvals", approval_id, "reject"), {"comment": comment})
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


@approvals.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="pending, approved, rejected, withdrawn, expired or used.")] = None,
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
    """Show a request and the decisions on it."""
    out = output_of(context)
    approval = client_of(context).one(path("approvals", approval_id))
    if out.as_json:
        return out.json(approval)
    out.record({key: value for key, value in approval.items() if key != "decisions"}, f"Approval {approval_id}", PROPERTIES)
    if approval["decisions"]:
        out.table(approval["decisions"], DECISION_COLUMNS)
    return None


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
