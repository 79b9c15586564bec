"""`aureus why`: why somebody can do something, or cannot - every step that decides it, and what would help."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from api.cli.client import path
from api.cli.options import client_of, output_of, pairs
from api.cli.output import Output, Row, plain

app = typer.Typer()
MARKS = {"passed": "yes", "failed": "NO", "waits": "waits", "not_reached": "-"}


@app.command()
def why(
    context: typer.Context,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="Such as pipelines.deploy_version.")],
    entity: Annotated[str | None, typer.Argument(metavar="[ENTITY]", help="The id of what it is about.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Who would ask; you, when not given.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option("--field", "-f", metavar="NAME=VALUE", help="A field of the command, as JSON or as text; repeatable."),
    ] = None,
) -> None:
    """Tell why somebody can or cannot do something, now or at a past moment (--as-of). Nothing is asked for."""
    client, out = client_of(context), output_of(context)
    fields = {name: _value(text) for name, text in pairs(field or [], "--field")}
    parameters = {"command": command, "entity": entity, "actor": actor, "fields": json.dumps(fields) if fields else None}
    found = client.one(path("why"), **parameters)
    if out.as_json:
        return out.json(found)
    out.text(found["explanation"])
    for step in found["steps"]:
        _tell(out, step)
    for remedy in found["remedies"]:
        out.text(f"What would help: {remedy}")
    return None


def _tell(out: Output, step: Row) -> None:
    out.text(f"  {MARKS[step['verdict']]:<6}{step['step']:<11}{step['message']}")
    for held in step["details"].get("held", ()):
        reach = f" on {plain(held['reach'])}" if "reach" in held else ""
        until = f" until {held['until']}" if "until" in held else ""
        out.text(f"{'':<19}{held['role']}: {held['way']}{' ' + held['source'] if 'source' in held else ''}{reach}{until}")
    for said in step["details"].get("said", ()):
        named = f"{said['policy']} v{said['version']}" if said["version"] else said["policy"]
        out.text(f"{'':<19}{named}: {said['outcome']}{' - ' + said['reason'] if said['reason'] else ''}")


def _value(text: str) -> Any:
    """JSON where it is JSON, and text otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return text
