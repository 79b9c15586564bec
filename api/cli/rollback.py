"""`aureus history`, `snapshot` and `rollback`: what a thing was at each of its versions, what going back would touch, and going back."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

from api.cli.client import Json, path
from api.cli.options import Limit, client_of, output_of
from api.cli.output import Column, Output, when

app = typer.Typer()


class Kind(StrEnum):
    """What has versions to go back to."""

    DATASET = "dataset"
    PIPELINE = "pipeline"
    BUDGET = "budget"
    POLICY = "policy"


EntityType = Annotated[Kind, typer.Argument(metavar="TYPE", help="dataset, pipeline, budget or policy.")]
EntityId = Annotated[str, typer.Argument(metavar="ID", help="Its id; `active` for the policies in force.")]
STEP_COLUMNS = (
    Column("version", "version", right=True),
    when("at", "at"),
    Column("what happened", lambda row: row["event"].partition(".")[2].replace("_", " ")),
    Column("actor", "actor"),
    Column("settings", lambda row: (row["sha256"] or "")[:12]),
    Column("action", "action_id"),
)
CHANGE_COLUMNS = (Column("setting", "field"), Column("now", "now"), Column("then", "then"))
SNAPSHOT_PROPERTIES = ("version", "timestamp", "sha256", "verified", "recordedBy")


@app.command()
def history(context: typer.Context, entity_type: EntityType, entity_id: EntityId, limit: Limit = 50) -> None:
    """List the versions of a dataset, pipeline, budget or of the policies: what made each, and when its settings differ."""
    page = client_of(context).rows(path("history", entity_type.value, entity_id), limit)
    output_of(context).rows(page, STEP_COLUMNS)


@app.command()
def snapshot(
    context: typer.Context,
    entity_type: EntityType,
    entity_id: EntityId,
    version: Annotated[int | None, typer.Option("--version", min=1, help="One of its versions; the latest when not given.")] = None,
) -> None:
    """Show the settings of something at one of its versions, and whether they are what was signed then."""
    taken = client_of(context).one(path("snapshots", entity_type.value, entity_id), version=version)
    output_of(context).record(taken, f"{entity_type.value.capitalize()} {entity_id}", SNAPSHOT_PROPERTIES)


@app.command()
def rollback(
    context: typer.Context,
    entity_type: EntityType,
    entity_id: EntityId,
    to: Annotated[int, typer.Option("--to", metavar="VERSION", min=1, help="The version whose settings come back.")],
    preview: Annotated[
        bool, typer.Option("--preview", help="Only show what it would change and touch, and what the Guard would say.")
    ] = False,
) -> None:
    """Give a dataset, pipeline or budget, or the policies, the settings of an earlier version back, by one compensating event."""
    client, out = client_of(context), output_of(context)
    chosen = {"entity_type": entity_type.value, "entity_id": entity_id, "to_version": to}
    if preview:
        return _show(out, client.one(path("rollbacks", "preview"), **chosen))
    result = client.ask(path("rollbacks"), chosen)
    return out.done(result, f"{entity_type.value.capitalize()} {entity_id} is as it was at version {to}.")


def _show(out: Output, found: Json) -> None:
    if out.as_json:
        return out.json(found)
    title = f"{found['entity_type'].capitalize()} {found['entity_id']}: from version {found['version']} back to {found['to_version']}"
    facts = dict(_facts(found))
    out.record(facts, title, tuple(facts))
    if found["changes"]:
        out.table(found["changes"], CHANGE_COLUMNS)
    return None


def _facts(found: Json) -> Iterator[tuple[str, Any]]:
    """What the preview says beside the settings, the verdict first."""
    touches, approval = found["touches"], found["approval"] or {}
    yield "outcome", found["outcome"].replace("_", " ")
    yield "because", found["message"] or [each["reason"] for each in found["policy_results"] if each["outcome"] != "allow"]
    yield "remedy", found["details"].get("remedy")
    if approval:
        yield "approved by", f"{approval['quorum']} of {', '.join(approval['approver_roles'])}"
        yield "evidence needed", approval["required_evidence"]
    yield "datasets downstream", [node["dataset_id"] for node in touches["downstream"]]
    yield "pipelines", [row["pipeline_id"] for row in touches["pipelines"]]
    yield "approvals waiting", [row["approval_id"] for row in touches["approvals"]]
    yield "agents concerned", [row["agent_id"] for row in touches["agents"]]
    yield "reservations", [row["reservation_id"] for row in touches["reservations"]]
    yield "it is done by", found["rollback_script"]
