"""`aureus subjects`: erase somebody, and show the certificate; `aureus holds` and `aureus retention`: what stays, and for how long."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from api.cli.client import Json, path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, Output, when

app = typer.Typer()
subjects = typer.Typer(help="The people whose values are kept: what is kept of them, and its erasure.", no_args_is_help=True)
holds = typer.Typer(help="Holds: what may not be erased, for a matter in law.", no_args_is_help=True)
retention = typer.Typer(help="How long values are kept, by jurisdiction and purpose.", no_args_is_help=True)
app.add_typer(subjects, name="subjects")
app.add_typer(holds, name="holds")
app.add_typer(retention, name="retention")

SubjectId = Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject's opaque id, such as cus-7f3a.")]
HoldId = Annotated[str, typer.Argument(metavar="HOLD", help="Its id, such as matter-2026-17.")]
Sha256 = Annotated[str, typer.Argument(metavar="SHA256", help="The hash of a stored artifact.")]
Purposes = Annotated[list[str] | None, typer.Option("--purpose", metavar="PURPOSE", help="Only what is kept for it; can be repeated.")]
Because = Annotated[str, typer.Option("--because", metavar="TEXT", help="Why; it goes on record.")]
Jurisdiction = Annotated[str, typer.Argument(metavar="LAW", help="EU, UK, US, APAC or multi.")]
Purpose = Annotated[str, typer.Argument(metavar="PURPOSE", help="What the values are kept for, such as governance.")]
COLUMNS: Final = (
    Column("subject", "subject_id"),
    Column("kind", "kind"),
    Column("law", "jurisdiction"),
    Column("status", "status"),
    Column("artifacts", lambda row: len(row["artifacts"]), right=True),
    Column("certificates", "certificates"),
    when("changed", "changed_at"),
)
PROPERTIES: Final = ("status", "kind", "jurisdiction", "fields", "artifacts", "holds", "ordered_by", "ground", "erased_purposes")
FIELD_COLUMNS: Final = (
    Column("purpose", "purpose"),
    Column("event", "event_type"),
    Column("fields", "names"),
    Column("values", "fields", right=True),
    Column("first", "first_position", right=True),
    Column("last", "last_position", right=True),
)
ARTIFACT_COLUMNS: Final = (
    Column("artifact", "sha256"),
    Column("purpose", "purpose"),
    Column("stays for", lambda row: ", ".join(row["also_of"])),
)
PACK_COLUMNS: Final = (Column("export", "export_id"), Column("for", "recipient"), Column("downloads", "downloads", right=True))
CERTIFICATE_COLUMNS: Final = (
    Column("subject", "subject_id"),
    Column("position", "position", right=True),
    Column("ground", "ground"),
    Column("what", lambda row: "everything" if row["everything"] else ", ".join(row["purposes"])),
    Column("up to", "until", right=True),
    Column("fields", "fields", right=True),
    Column("keys", "keys", right=True),
    Column("artifacts", lambda row: len(row["artifacts"]), right=True),
    Column("packs", "export_ids"),
    when("certified", "certified_at"),
)
HOLD_COLUMNS: Final = (
    Column("hold", "hold_id"),
    Column("on", lambda row: "everybody" if row["everybody"] else ", ".join(row["subject_ids"])),
    Column("matter", "matter"),
    Column("status", "status"),
    Column("by", "placed_by"),
    when("placed", "placed_at"),
    when("until", "until"),
)
RULE_COLUMNS: Final = (
    Column("law", "jurisdiction"),
    Column("purpose", "purpose"),
    Column("keep", "keep"),
    Column("by", "set_by"),
    when("since", "set_at"),
)
DUE_COLUMNS: Final = (
    Column("subject", "subject_id"),
    Column("law", "jurisdiction"),
    Column("purpose", "purpose"),
    Column("fields", "fields", right=True),
    when("last recorded", "last_recorded_at"),
    when("due", "due_at"),
    Column("held by", "holds"),
)


@subjects.command()
def describe(
    context: typer.Context,
    subject_id: SubjectId,
    jurisdiction: Annotated[str, typer.Option("--jurisdiction", metavar="LAW", help="EU, UK, US, APAC or multi.")],
    kind: Annotated[str, typer.Option("--kind", help="customer, employee, contact or other.")] = "customer",
) -> None:
    """Say what kind of person a subject is, and under whose law their values stand."""
    body = {"subject_id": subject_id, "jurisdiction": jurisdiction, "kind": kind}
    output_of(context).done(client_of(context).ask(path("subjects"), body), f"{subject_id}: {kind}, under the law of {jurisdiction}.")


@subjects.command()
def attach(
    context: typer.Context,
    subject_id: SubjectId,
    sha256: Sha256,
    purpose: Annotated[str | None, typer.Option("--purpose", help="What it is kept for. [governance]")] = None,
) -> None:
    """Say that a stored artifact holds data about a subject: it goes when they are erased."""
    result = client_of(context).ask(path("subjects", subject_id, "artifacts"), {"sha256": sha256, "purpose": purpose})
    output_of(context).done(result, f"Artifact {sha256[:12]} goes when {subject_id} is erased.")


@subjects.command()
def detach(context: typer.Context, subject_id: SubjectId, sha256: Sha256) -> None:
    """Say that a stored artifact holds nothing about a subject after all."""
    result = client_of(context).ask(path("subjects", subject_id, "artifacts", sha256, "detach"), {})
    output_of(context).done(result, f"Artifact {sha256[:12]} stays when {subject_id} is erased.")


@subjects.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="open, ordered, erasing, partly_erased, erased or reopened.")] = None,
    jurisdiction: Annotated[str | None, typer.Option("--jurisdiction", metavar="LAW", help="Only those under it.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List the subjects that were described or erased."""
    filters = {"status": status, "jurisdiction": jurisdiction, "q": search, "sort": sort}
    output_of(context).rows(client_of(context).rows(path("subjects"), limit, **filters), COLUMNS, "No subject was described.")


@subjects.command()
def show(context: typer.Context, subject_id: SubjectId) -> None:
    """Show how a subject stands: how many values are kept, what holds them, and what was erased."""
    output_of(context).record(client_of(context).one(path("subjects", subject_id)), f"Subject {subject_id}", PROPERTIES)


@subjects.command()
def erase(
    context: typer.Context,
    subject_id: SubjectId,
    purpose: Purposes = None,
    ground: Annotated[str, typer.Option("--ground", help="consent_withdrawn, objection, retention or other.")] = "consent_withdrawn",
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="What else to put on record; no personal data.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show what would be destroyed, and destroy nothing.")] = False,
) -> None:
    """Have what is kept of somebody destroyed, for good: values, keys, artifacts, packs that show them."""
    client, out = client_of(context), output_of(context)
    if preview:
        return _preview(out, client.one(path("subjects", subject_id, "erasure-preview"), purpose=purpose or None))
    body = {"purposes": purpose or [], "ground": ground, "note": note}
    result = client.ask(path("subjects", subject_id, "erase"), body)
    out.done(result, f"The erasure of {subject_id} is ordered; `aureus subjects certificates {subject_id}` shows when it is done.")
    return None


@subjects.command("cancel-erasure")
def cancel_erasure(context: typer.Context, subject_id: SubjectId, because: Because) -> None:
    """Take back an order that was not begun, as while a hold prevents it."""
    result = client_of(context).ask(path("subjects", subject_id, "cancel-erasure"), {"reason": because})
    output_of(context).done(result, f"{subject_id} is not erased: the order is taken back.")


@subjects.command()
def reopen(context: typer.Context, subject_id: SubjectId, because: Because) -> None:
    """Let values of an erased subject be recorded again; what was erased stays erased."""
    result = client_of(context).ask(path("subjects", subject_id, "reopen"), {"reason": because})
    output_of(context).done(result, f"Values of {subject_id} may be recorded again.")


@subjects.command()
def certificates(
    context: typer.Context,
    subject_id: Annotated[str | None, typer.Argument(metavar="[SUBJECT]", help="Only theirs, with the signed entries.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write all of them as signed entries: a restore follows them first.")
    ] = None,
    limit: Limit = 50,
) -> None:
    """List certificates of erasure; of one subject, with the signed entry and where its proof is."""
    client, out = client_of(context), output_of(context)
    if export is not None:
        return _export(out, client, export)
    if subject_id is None:
        out.rows(client.rows(path("certificates"), limit, sort="-position"), CERTIFICATE_COLUMNS, "Nobody was erased.")
        return None
    page = client.one(path("subjects", subject_id, "certificates"))
    out.rows(page, CERTIFICATE_COLUMNS, f"{subject_id} was not erased.")
    if not out.as_json:
        for row in page["items"]:
            out.text(f"Proof: `aureus log proof {row['position']}`; the signed entry: --json.")
    return None


@holds.command()
def place(
    context: typer.Context,
    hold_id: HoldId,
    matter: Annotated[str, typer.Option("--matter", metavar="TEXT", help="The matter in law, such as its docket number.")],
    because: Because,
    subject: Annotated[list[str] | None, typer.Option("--subject", metavar="SUBJECT", help="On whom; can be repeated.")] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="On everybody.")] = False,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Over by itself then: 2027-01-01T00:00:00Z.")] = None,
) -> None:
    """Keep what there is about somebody from being erased."""
    body = {
        "hold_id": hold_id,
        "subject_ids": subject or [],
        "everybody": everybody,
        "matter": matter,
        "reason": because,
        "until": until,
    }
    whom = "everybody" if everybody else ", ".join(subject or ())
    output_of(context).done(client_of(context).ask(path("holds"), body), f"Nothing of {whom} is erased while {hold_id} stands.")


@holds.command()
def release(context: typer.Context, hold_id: HoldId, because: Because) -> None:
    """Let what was held be erased again; an order that waited is carried out at once."""
    result = client_of(context).ask(path("holds", hold_id, "release"), {"reason": because})
    output_of(context).done(result, f"{hold_id} holds nothing any more.")


@holds.command("list")
def list_holds(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="placed or released.")] = "placed",
    subject: Annotated[str | None, typer.Option("--subject", metavar="SUBJECT", help="Only those that name them.")] = None,
    limit: Limit = 50,
) -> None:
    """List the holds that stand."""
    page = client_of(context).rows(path("holds"), limit, status=status, subject_ids=subject)
    output_of(context).rows(page, HOLD_COLUMNS, "Nothing is held.")


@holds.command("show")
def show_hold(context: typer.Context, hold_id: HoldId) -> None:
    """Show a hold: on whom, for what matter, and who placed and released it."""
    output_of(context).record(client_of(context).one(path("holds", hold_id)), f"Hold {hold_id}", ("status", "matter", "subject_ids"))


@retention.command("set")
def set_(
    context: typer.Context,
    jurisdiction: Jurisdiction,
    purpose: Purpose,
    keep: Annotated[str, typer.Argument(metavar="DURATION", help="From the last value recorded: P3650D is ten years.")],
) -> None:
    """Have values erased so long after the last of them was recorded."""
    result = client_of(context).ask(path("retention-rules"), {"jurisdiction": jurisdiction, "purpose": purpose, "keep": keep})
    output_of(context).done(result, f"What is kept for {purpose} under the law of {jurisdiction} stays {keep}.")


@retention.command()
def lift(context: typer.Context, jurisdiction: Jurisdiction, purpose: Purpose) -> None:
    """Have values stay until somebody has them erased."""
    result = client_of(context).ask(path("retention-rules", "lift"), {"jurisdiction": jurisdiction, "purpose": purpose})
    output_of(context).done(result, f"No rule says any more how long values kept for {purpose} stay under the law of {jurisdiction}.")


@retention.command("list")
def list_rules(context: typer.Context, limit: Limit = 50) -> None:
    """List the rules."""
    output_of(context).rows(client_of(context).rows(path("retention-rules"), limit), RULE_COLUMNS, "No rule was set: everything stays.")


@retention.command()
def due(
    context: typer.Context,
    at: Annotated[str | None, typer.Option("--at", metavar="DATE", help="As of then, past or to come: 2027-01-01.")] = None,
) -> None:
    """Show what the rules would have erased by now, or by a date."""
    output_of(context).rows(client_of(context).one(path("retention", "due"), at=at), DUE_COLUMNS, "Nothing is due.")


def _preview(out: Output, found: Json) -> None:
    if out.as_json:
        return out.json(found)
    out.text(f"An erasure of {found['subject_id']} would destroy:")
    if found["fields"]:
        out.table(found["fields"], FIELD_COLUMNS)
    if found["artifacts"]:
        out.table(found["artifacts"], ARTIFACT_COLUMNS)
    if found["packs"]:
        out.table(found["packs"], PACK_COLUMNS)
    if not (found["fields"] or found["artifacts"] or found["packs"]):
        out.text("  nothing: no value of them is kept.")
    if found["holds"]:
        out.text("It is held up:")
        out.table(found["holds"], HOLD_COLUMNS)
    out.text(_approval(found["approval"]))
    return None


def _approval(said: Json) -> str:
    if said["outcome"] == "requires_approval":
        people = "somebody else" if said["quorum"] == 1 else f"{said['quorum']} others"
        return f"It takes the approval of {people}: {' or '.join(said['approver_roles'])}."
    return "It needs nobody's approval." if said["outcome"] == "allowed" else f"It would be refused ({said['code']}): {said['message']}"


def _export(out: Output, client: Any, target: Path) -> None:
    """Beside the target first, so that a restore never follows half a file."""
    partial = target.with_name(f"{target.name}.partial")
    since = {"at_least": client.profile.position} if client.profile.position else {}
    with client.streamed(path("certificates", "entries"), {}, **since) as response, partial.open("wb") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
    partial.replace(target)
    bodies = (json.loads(b64decode(json.loads(line)["entry"]["payload"])) for line in target.read_bytes().splitlines())
    count = sum(body["type"] == "subjects.subject_erased" for body in bodies)
    if out.as_json:
        return out.json({"file": str(target), "certificates": count})
    out.text(f"{target}: {count} certificates. A restore of an older backup takes them with --erasures {target.name}.")
    return None
