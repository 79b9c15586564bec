"""`aureus vault`: personal values, masked or shown under a grant; the keys they are sealed under; and whether all of them are there."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from api.cli.client import path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Limit, Sort, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
vault = typer.Typer(help="Personal values: who may see them, who saw them, and the keys that open them.", no_args_is_help=True)
app.add_typer(vault, name="vault")

SubjectId = Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject's opaque id.")]
Purpose = Annotated[list[str], typer.Option("--purpose", metavar="PURPOSE", help="What the values are kept for; can be repeated.")]
Because = Annotated[str, typer.Option("--because", "-m", metavar="TEXT", help="Why; it goes on record.")]
FieldName = Annotated[list[str] | None, typer.Option("--field", metavar="NAME", help="Only this field; can be repeated.")]
VALUE_COLUMNS = (
    Column("position", "position", right=True),
    Column("event", "event_type"),
    Column("field", "name"),
    Column("purpose", "purpose"),
    Column("state", "state"),
    Column("value", "masked"),
    when("recorded", "at"),
)
SHOWN_COLUMNS = (*VALUE_COLUMNS[:5], Column("value", "value"), VALUE_COLUMNS[6])
GRANT_COLUMNS = (
    Column("grant", "grant_id"),
    Column("who", "actor_id"),
    Column("of", lambda row: row["subject_id"] or "everybody"),
    Column("for", "purposes"),
    Column("fields", lambda row: row["fields"] or "all"),
    when("until", "until"),
    Column("status", "status"),
    Column("by", "granted_by"),
)
DISCLOSURE_COLUMNS = (
    Column("disclosure", "disclosure_id"),
    Column("of", "subject_id"),
    Column("to", "disclosed_to"),
    Column("fields", lambda row: len(row["fields"]), right=True),
    Column("grant", "grant_id"),
    Column("reason", "reason"),
    when("at", "disclosed_at"),
)
KEK_COLUMNS = (
    Column("key-encryption key", "kek"),
    Column("wraps new keys", "wraps"),
    Column("keys", "keys", right=True),
    Column("webhook secrets", "webhook_secrets", right=True),
    Column("here", "here"),
)
PROBLEM_COLUMNS = (
    Column("position", "position", right=True),
    Column("event", "event_type"),
    Column("state", "state"),
    Column("field", "name"),
    Column("subject", "subject"),
    Column("problem", "problem"),
)


@vault.command()
def values(context: typer.Context, subject_id: SubjectId, limit: Limit = 200) -> None:
    """List the personal values on record about a subject, masked, and what became of each."""
    page = client_of(context).rows(path("subjects", subject_id, "values"), limit)
    output_of(context).rows(page, VALUE_COLUMNS, "No value was filled in.")


@vault.command()
def disclose(
    context: typer.Context,
    subject_id: SubjectId,
    purpose: Purpose,
    because: Because,
    grant: Annotated[str | None, typer.Option("--grant", metavar="GRANT", help="Under this grant; else under one that covers it.")] = None,
    disclosure_id: Annotated[
        str | None, typer.Option("--id", metavar="DISCLOSURE", help="The disclosure's id; the same with an approval.")
    ] = None,
) -> None:
    """Show a subject's values as they are, under a grant; that you saw them is on record first."""
    body = {"disclosure_id": disclosure_id or _fresh("dsc"), "purposes": purpose, "reason": because, "grant_id": grant}
    result = client_of(context).ask(path("subjects", subject_id, "disclose"), body)
    out = output_of(context)
    if out.as_json:
        out.json(result)
        return
    out.rows({"items": result.get("values", [])}, SHOWN_COLUMNS)
    out.done(result, f"Disclosure {body['disclosure_id']} is on record.")


@vault.command()
def grant(
    context: typer.Context,
    actor_id: Annotated[str, typer.Argument(metavar="ACTOR", help="Who may see them.")],
    purpose: Purpose,
    because: Because,
    subject: Annotated[str | None, typer.Option("--subject", metavar="SUBJECT", help="Whose values.")] = None,
    all_subjects: Annotated[bool, typer.Option("--all-subjects", help="Everybody's.")] = False,
    field: FieldName = None,
    hours: Annotated[int, typer.Option("--hours", min=1, max=8_760, help="For so long.")] = 8,
    grant_id: Annotated[str | None, typer.Option("--id", metavar="GRANT", help="The grant's id; the same with an approval.")] = None,
) -> None:
    """Let somebody else see personal values, for a while."""
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)
    body = {
        "grant_id": grant_id or _fresh("grt"),
        "actor_id": actor_id,
        "purposes": purpose,
        "subject_id": subject,
        "all_subjects": all_subjects or None,
        "fields": field or None,
        "until": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reason": because,
    }
    result = client_of(context).ask(path("unmasking-grants"), body)
    whose = subject or "everybody"
    output_of(context).done(result, f"Grant {body['grant_id']}: {actor_id} may see values of {whose} until {until:%Y-%m-%d %H:%M} UTC.")


@vault.command()
def revoke(context: typer.Context, grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="Its id.")], because: Because) -> None:
    """Take a grant away before it ends."""
    result = client_of(context).ask(path("unmasking-grants", grant_id, "revoke"), {"reason": because})
    output_of(context).done(result, f"Revoked grant {grant_id}.")


@vault.command()
def grants(
    context: typer.Context,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="ACTOR", help="Only this one's; your own unless you oversee others.")
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="granted or revoked.")] = None,
    sort: Sort = "-granted_at",
    limit: Limit = 50,
) -> None:
    """List grants: who may see whose values, for what, until when."""
    page = client_of(context).rows(path("unmasking-grants"), limit, actor_id=actor, status=status, sort=sort)
    output_of(context).rows(page, GRANT_COLUMNS, "Nobody may see values.")


@vault.command()
def disclosures(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="To this one; to you unless you oversee others.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", metavar="SUBJECT", help="Of this one.")] = None,
    sort: Sort = "-disclosed_at",
    limit: Limit = 50,
) -> None:
    """List disclosures: who saw whose values, under which grant, and why."""
    page = client_of(context).rows(path("disclosures"), limit, disclosed_to=actor, subject_id=subject, sort=sort)
    output_of(context).rows(page, DISCLOSURE_COLUMNS, "Nobody saw anything.")


@vault.command()
def status(context: typer.Context) -> None:
    """Show what the vault's keys are wrapped under, and whether the server has what opens them."""
    client, out = client_of(context), output_of(context)
    found = client.one(path("vault"))
    if out.as_json:
        out.json(found)
        return
    out.rows({"items": found["keks"]}, KEK_COLUMNS)
    under_way = " Keys are being wrapped again." if found["rewrapping"] else ""
    out.note(f"The keys are in a database {found['keys_database']}; what wraps them is in {found['keys_folder']}.{under_way}")


@vault.command("rotate-key")
def rotate_key(context: typer.Context) -> None:
    """Wrap the vault's keys under a new key-encryption key: new ones at once, the others in the background."""
    result = client_of(context).ask(path("vault", "rotate-key"), {})
    kek = next((event["data"]["kek"] for event in result.get("events", ()) if "kek" in event["data"]), "a new key")
    output_of(context).done(result, f"The vault's keys are wrapped under {kek} from here on; `aureus vault status` shows how far it is.")


@vault.command()
def check(
    context: typer.Context,
    after: Annotated[int, typer.Option("--from", metavar="POSITION", min=0, help="Only events after this position.")] = 0,
    until: Annotated[int | None, typer.Option("--to", metavar="POSITION", min=0, help="Only events up to this position.")] = None,
) -> None:
    """Account for every personal value on record: it opens, or its erasure is certified. Exit code 8 when one was taken away or changed."""
    client, out = client_of(context), output_of(context)
    found = client.one(path("vault", "accounting"), **{"from": after, "to": until})
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in found["counts"].items()) or "none"
    if out.as_json:
        out.json(found)
    else:
        if found["problems"]:
            out.rows({"items": found["problems"]}, PROBLEM_COLUMNS)
        out.note(f"{found['events']} events with personal fields after {found['after']}, up to {found['until']}; their values: {counts}.")
    if not found["whole"]:
        message = "The vault does not hold what was signed."
        remedy = "Restore the rows of vault.disclosures and vault.keys from a backup, and find out who changed them."
        raise Failure(ExitCode.NOT_VERIFIED, "vault_not_whole", message, counts=counts, remedy=remedy)


def _fresh(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:12]}"
