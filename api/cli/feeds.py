"""`aureus events follow` and `aureus changes follow`: what happens, and what it changes, as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, Final

import typer

from api.cli import event_catalogue
from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, output_of
from api.cli.output import Output, moment

app = typer.Typer()
events = typer.Typer(help="The events of the ledger, as they come, and all there can be.", no_args_is_help=True)
changes = typer.Typer(help="The rows of lists, as they change.", no_args_is_help=True)
app.add_typer(events, name="events")
events.add_typer(event_catalogue.app)
app.add_typer(changes, name="changes")

PAUSES_SECONDS: Final = (0.5, 10.0)
"""Before connecting again: at first, and at most."""
After = Annotated[
    str | None, typer.Option("--after", metavar="POSITION|TIME", help="Begin with what follows it; with what comes now, when not given.")
]
Count = Annotated[int | None, typer.Option("-n", metavar="COUNT", min=1, help="End after so many; when not given, when interrupted.")]


@events.command("follow")
def follow_events(
    context: typer.Context,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only these, such as budgets.funds_reserved or budgets.*; repeatable."),
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", metavar="STREAM", help="Only those on this, such as budget:eu-lake; repeatable.")
    ] = None,
    actor: Annotated[list[str] | None, typer.Option("--actor", metavar="ACTOR", help="Only those of this actor; repeatable.")] = None,
    after: After = None,
    count: Count = None,
) -> None:
    """Follow the events of the ledger, through lost connections and restarts of the server; with --json one event per line."""
    out = output_of(context)
    told = _messages(client_of(context), out, path("feeds", "events"), after, type=type_, stream=stream, actor=actor)
    for event in _until_interrupted(told, count):
        if out.as_json:
            out.json(event)
        else:
            where = f"{event['stream']} v{event['version']}"
            out.text(f"{event['position']:>7}  {moment(event['at'])}  {event['type']:<36}  {where}  {event['actor']}")


@changes.command("follow")
def follow_changes(
    context: typer.Context,
    table: Annotated[
        list[str] | None, typer.Option("--table", metavar="LIST", help="Only rows of this list, such as approvals; repeatable.")
    ] = None,
    row_id: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only this row; repeatable.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="FILTER=VALUE", help="Only rows with this value in a filter of the list; repeatable."),
    ] = None,
    after: After = None,
    count: Count = None,
) -> None:
    """Follow the rows of lists as they change, each as it stands then; with --json one change per line."""
    out = output_of(context)
    filters: dict[str, list[str]] = {}
    for text in where or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} names no value: write it such as status=pending.", param_hint="--where")
        filters.setdefault(name, []).append(value)
    told = _messages(client_of(context), out, path("feeds", "changes"), after, table=table, id=row_id, **filters)
    for change in _until_interrupted((change for batch in told for change in batch["changes"]), count):
        if out.as_json:
            out.json(change)
        else:
            row = "ended" if change["row"] is None else json.dumps(change["row"], ensure_ascii=False)
            out.text(f"{change['position']:>7}  {change['table']}  {change['id']}  {row}")


def _until_interrupted(told: Iterator[Json], count: int | None) -> Iterator[Json]:
    try:
        yield from islice(told, count)
    except KeyboardInterrupt:
        return


def _messages(client: Client, out: Output, where: str, after: str | None, **parameters: Any) -> Iterator[Json]:
    """What a feed tells. Once it has begun, it is taken up again where it broke off, for as long as that takes."""
    position, began = after, False
    pause, longest = PAUSES_SECONDS
    while True:
        try:
            headers = {"Accept": "text/event-stream"}
            with client.streamed(where, headers, after=position, **parameters) as answer:
                for name, told_position, data in _server_sent(answer.iter_lines()):
                    position, began, pause = told_position, True, PAUSES_SECONDS[0]
                    if name == "end":
                        out.note(f"{data['message']} Following again after position {position}.")
                    elif name not in {"begin", "beat"}:
                        yield data
        except Failure as failure:
            if not began or failure.exit_code is not ExitCode.UNREACHABLE:
                raise
            out.note(f"{failure.message} Trying again.")
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _server_sent(lines: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """(name, position, data) of each message."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}
