"""`aureus policies`: what judges every action, and how that changes - proposed, tested, held against the past, approved, in force."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import Client, Json, path
from api.cli.options import Limit, Search, Sort, client_of, content_of, output_of
from api.cli.output import Column, Output, when

app = typer.Typer()
policies = typer.Typer(help="What judges every action, and how that changes.", no_args_is_help=True)
app.add_typer(policies, name="policies")

PolicyId = Annotated[str, typer.Argument(metavar="POLICY", help="Its id.")]
Named = Annotated[
    list[str] | None, typer.Argument(metavar="POLICY[@VERSION]...", help="Versions to put in force; the latest where none is given.")
]
Retired = Annotated[list[str] | None, typer.Option("--retire", metavar="POLICY", help="A policy to take out of force; repeatable.")]
Folder = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="A folder of <policy>.rego, _test.rego and .json files.")
]
COLUMNS = (
    Column("policy", "policy_id"),
    Column("type", "type"),
    Column("status", "status"),
    Column("version", "version", right=True),
    Column("latest", "latest_version", right=True),
    Column("title", "title"),
    when("changed", "changed_at"),
)
PROPERTIES = ("title", "type", "status", "version", "owner", "scope", "rule", "data", "passed", "failed", "problems")
PLAN_COLUMNS = (Column("policy", "policy_id"), Column("type", "type"), Column("in the folder", "status"), Column("version", "version"))
TEST_COLUMNS = (Column("test", "name"), Column("passed", "passed"), Column("detail", "detail"))
FLIP_COLUMNS = (Column("was", "before"), Column("would be", "after"), Column("decisions", "count", right=True))
DIFFERENCE_COLUMNS = (
    Column("action", "action_id"),
    Column("position", "position", right=True),
    Column("command", "action"),
    Column("was", "before"),
    Column("would be", "after"),
    Column("because", "why"),
)
CONFLICT_COLUMNS = (
    Column("conflict", "kind"),
    Column("policies", "policies"),
    Column("answers", lambda row: ", ".join(answer["outcome"] for answer in row["answers"])),
    Column("comes out", lambda row: row["example"]["outcome"]),
    Column("seen", "seen", right=True),
    Column("example", lambda row: row["example"]["question"]),
)
DIFFERENCES_SHOWN = 20


@policies.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option("--type", help="access, quality, retention, approval or shared.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="in_force, proposed or retired.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List policies with the version that is in force."""
    page = client_of(context).rows(path("policies"), limit, type=kind, status=status, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "No policy is on record.")


@policies.command()
def show(
    context: typer.Context, policy: Annotated[str, typer.Argument(metavar="POLICY[@VERSION]", help="The latest if not given.")]
) -> None:
    """Show what a version of a policy says, and how its tests came out."""
    client, out = client_of(context), output_of(context)
    ref = candidate_ref(client, policy)
    version = client.one(path("policy-versions", f"{ref['policy_id']}@{ref['version']}"))
    if out.as_json:
        return out.json(version)
    out.record(
        {key: value for key, value in version.items() if key not in ("rego", "tests")}, f"Policy {version['version_id']}", PROPERTIES
    )
    for part in ("rego", "tests"):
        if version[part]:
            out.text(f"\n{version[part].rstrip()}")
    return None


@policies.command()
def push(
    context: typer.Context,
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would propose.")] = False,
) -> None:
    """Propose what a folder changes of the policies; nothing is in force by that."""
    client, out = client_of(context), output_of(context)
    result = client.ask(path("policies", "push"), {"files": files_in(folder), "dry_run": dry_run})
    if out.as_json:
        return out.json(result)
    out.table(result["policies"], PLAN_COLUMNS)
    if result["only_in_force"]:
        out.note(f"In force and not in the folder: {', '.join(result['only_in_force'])}. Retire what should go.")
    if names := " ".join(f"{ref['policy_id']}@{ref['version']}" for ref in result["change"]["activate"]):
        out.note(f"Next: aureus policies test {names}; then impact and activate with the same.")
    return None


@policies.command()
def diff(context: typer.Context, folder: Folder) -> None:
    """Show line by line how a folder differs from what is in force; nothing is written."""
    client, out = client_of(context), output_of(context)
    result = client.ask(path("policies", "push"), {"files": files_in(folder), "dry_run": True})
    if out.as_json:
        return out.json(result)
    text = "".join(item["diff"] for item in result["policies"])
    return out.text(text.rstrip("\n")) if text else out.note("The folder says what is in force.")


@policies.command()
def propose(
    context: typer.Context,
    policy_id: PolicyId,
    title: Annotated[str, typer.Option("--title", help="What it is for, in a sentence.")],
    kind: Annotated[str, typer.Option("--type", help="access, quality, retention, approval or shared.")] = "access",
    outcome: Annotated[str | None, typer.Option("--outcome", help="Without Rego: allow, block or require_approval.")] = None,
    because: Annotated[str | None, typer.Option("--because", metavar="TEXT", help="What the policy says to whom it stops.")] = None,
    approver_role: Annotated[list[str] | None, typer.Option("--approver-role", help="Who may approve; repeatable.")] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", min=1, max=20, help="How many have to. [1]")] = None,
    evidence: Annotated[list[str] | None, typer.Option("--require-evidence", metavar="KIND", help="Without it nothing completes.")] = None,
    rego: Annotated[Path | None, typer.Option("--rego", metavar="FILE", help="A module that defines the function POLICY.")] = None,
    tests: Annotated[Path | None, typer.Option("--tests", metavar="FILE", help="Its tests, as rules named test_*.")] = None,
    domain: Annotated[list[str] | None, typer.Option("--domain", help="Only data of this domain; repeatable.")] = None,
    pii: Annotated[list[str] | None, typer.Option("--pii", help="Only data of this PII level; repeatable.")] = None,
    jurisdiction: Annotated[list[str] | None, typer.Option("--jurisdiction", help="Only data under this one; repeatable.")] = None,
    environment: Annotated[list[str] | None, typer.Option("--environment", help="Only in this one; repeatable.")] = None,
    action: Annotated[list[str] | None, typer.Option("--action", help="Only this command, or catalog.*; repeatable.")] = None,
    actor_kind: Annotated[list[str] | None, typer.Option("--actor-kind", help="Only persons, agents or services; repeatable.")] = None,
) -> None:
    """Write down a policy, or the next version of one: a rule without code, or Rego."""
    rule = {
        "outcome": outcome,
        "reason": because or title,
        "approver_roles": approver_role,
        "quorum": quorum,
        "required_evidence": evidence,
    }
    scope = {
        "domains": domain,
        "pii_levels": pii,
        "jurisdictions": jurisdiction,
        "environments": environment,
        "actions": action,
        "actor_kinds": actor_kind,
    }
    body = {
        "policy_id": policy_id,
        "type": kind,
        "title": title,
        "scope": _given(scope),
        "rule": _given(rule) if outcome else None,
        "rego": content_of(rego).decode() if rego else None,
        "tests": content_of(tests).decode() if tests else None,
    }
    result = client_of(context).ask(path("policies"), body)
    version = result["events"][0]["data"]["version"]
    output_of(context).done(result, f"Proposed {policy_id}@{version}; it judges nothing until it is tested and activated.")


@policies.command("test")
def run_tests(context: typer.Context, named: Named = None, retire: Retired = None) -> None:
    """Run the tests of what a change would leave in force; the result goes on record."""
    client, out = client_of(context), output_of(context)
    result = client.ask(path("policies", "test"), _change(client, named, retire))
    if out.as_json:
        return out.json(result)
    if failed := [test for test in result["tests"] if not test["passed"]]:
        out.table(failed, TEST_COLUMNS)
    for problem in result["problems"]:
        out.note(problem)
    return out.text(f"{result['passed']} passed, {result['failed']} failed; report {result['report']}")


@policies.command()
def impact(
    context: typer.Context,
    named: Named = None,
    retire: Retired = None,
    to: Annotated[int | None, typer.Option("--to", metavar="VERSION", min=1, help="Of a rollback to this version instead.")] = None,
    decisions: Annotated[int, typer.Option("--decisions", min=1, max=100_000, help="How many of the latest to ask again.")] = 1_000,
) -> None:
    """Show which of the latest decisions would come out differently; that goes on record, with a rollback plan."""
    client, out = client_of(context), output_of(context)
    step = {"to_version": to} if to else _change(client, named, retire)
    result = client.ask(path("policies", "impact"), {**step, "decisions": decisions})
    if out.as_json:
        return out.json(result)
    tell_differences(out, result)
    out.text(f"Evidence: impact analysis {result['report']}, rollback plan {result['rollback_plan']}")
    if to:
        return out.note(f"Next: aureus rollback policy active --to {to} --evidence {result['report']} --evidence {result['rollback_plan']}")
    return None


@policies.command()
def activate(context: typer.Context, named: Named = None, retire: Retired = None) -> None:
    """Put versions in force, all in one step, once they are tested and their impact is known."""
    client = client_of(context)
    change = _change(client, named, retire)
    result = client.ask(path("policies", "activate"), change)
    names = ", ".join(f"{ref['policy_id']}@{ref['version']}" for ref in change["activate"])
    output_of(context).done(result, f"In force: {names}.")


@policies.command("retire")
def retire_(context: typer.Context, policy_id: PolicyId) -> None:
    """Take a policy out of force, once what is left is tested and the impact is known (`--retire` of test and impact)."""
    result = client_of(context).ask(path("policies", policy_id, "retire"), {})
    output_of(context).done(result, f"Retired {policy_id}.")


@policies.command()
def conflicts(context: typer.Context) -> None:
    """Search for questions to which two policies in force answer differently, the gravest first."""
    out = output_of(context)
    found = client_of(context).one(path("policies", "conflicts"))
    if out.as_json:
        return out.json(found)
    if found["conflicts"]:
        out.table(found["conflicts"], CONFLICT_COLUMNS)
    asked = f"{found['questions']} questions were asked, {found['recorded_questions']} of them for the second time"
    return out.text(f"Conflicts among the policies {found['policy_version']}: {len(found['conflicts'])}; {asked}.")


def tell_differences(out: Output, result: Json) -> None:
    """What comes out differently: how much of it, and the first of it."""
    if result["flips"]:
        out.table(result["flips"], FLIP_COLUMNS)
        out.table(result["differences"][:DIFFERENCES_SHOWN], DIFFERENCE_COLUMNS)
        if result["different"] > DIFFERENCES_SHOWN:
            out.note(f"There are {result['different'] - DIFFERENCES_SHOWN} more: see them with --json.")
    out.text(f"{result['different']} of {result['asked_again']} decisions come out differently.")


def files_in(folder: Path) -> dict[str, str]:
    """The policies of a folder, each file by its name."""
    found = sorted([*folder.glob("*.rego"), *folder.glob("*.json")])
    if not found:
        raise typer.BadParameter(f"{folder} holds no .rego and no .json file.")
    return {file.name: content_of(file).decode(errors="replace") for file in found}


def _change(client: Client, named: list[str] | None, retire: list[str] | None) -> Json:
    if not (named or retire):
        raise typer.BadParameter("Name a policy to put in force, or one to --retire.")
    return {"activate": [candidate_ref(client, text) for text in named or ()], "retire": retire or []}


def candidate_ref(client: Client, text: str) -> Json:
    """`pii_access@3`, or the latest version of `pii_access`."""
    policy_id, _, version = text.partition("@")
    if version and not version.isdigit():
        raise typer.BadParameter(f"{text!r} is not of the form POLICY@VERSION.")
    return {"policy_id": policy_id, "version": int(version) if version else client.one(path("policies", policy_id))["latest_version"]}


def _given(values: dict[str, Any]) -> Json:
    return {key: value for key, value in values.items() if value is not None}
