"""`aureus dead-letters` and `aureus sagas`: what Aureus could not do by itself, and how far it came with what it does."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, Row, when

app = typer.Typer()
letters = typer.Typer(help="Dead letters: what Aureus could not do by itself, to be replayed or discarded.", no_args_is_help=True)
sagas = typer.Typer(help="Sagas: what Aureus does by itself in several steps, and how far each came.", no_args_is_help=True)
app.add_typer(letters, name="dead-letters")
app.add_typer(sagas, name="sagas")

LetterId = Annotated[str, typer.Argument(metavar="LETTER", help="Its id, as `list` shows it.")]
SagaId = Annotated[str, typer.Argument(metavar="SAGA", help="Its id, as `list` shows it.")]
LETTER_COLUMNS = (
    Column("letter", "letter_id"),
    Column("reaction", "reaction"),
    Column("wanted", lambda row: row["command"] or "all of it"),
    Column("because", "code"),
    Column("attempts", "attempts", right=True),
    Column("status", "status"),
    when("last tried", "last_tried_at"),
)
LETTER_PROPERTIES = (
    "status",
    "reaction",
    "command",
    "inputs",
    "on_behalf_of",
    "code",
    "message",
    "attempts",
    "cause_position",
    "cause_event",
    "cause_stream",
)
SAGA_COLUMNS = (
    Column("saga", "saga_id"),
    Column("name", "saga"),
    Column("status", "status"),
    Column("because of", "cause_stream"),
    Column("code", "code"),
    when("started", "started_at"),
    when("until", "deadline_at"),
)
SAGA_PROPERTIES = ("saga", "status", "cause_position", "cause_event", "cause_stream", "code", "message", "waits_for_approval")


def _told(step: Row) -> str:
    """What a step came to, in one line."""
    if step["what"] == "failed":
        failure, retry_at = step["failure"], step["retry_at"]
        return f"attempt {step['attempt']}: {failure['code']}{f', again at {retry_at}' if retry_at else ', for good'}"
    if step["what"] == "parked":
        return f"waits for approval {step['approval_id']}"
    done = [f"{answer['command']} on {answer['stream']}" for answer in step["answers"]]
    return "; ".join([*done, *(f"not done: {failure['code']} on {failure['stream']}" for failure in step["failures"])])


STEP_COLUMNS = (when("at", "at"), Column("step", "step"), Column("came to", "what"), Column("", _told))


@letters.command("list")
def list_letters(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="waiting, replaying, replayed or discarded.")] = None,
    reaction: Annotated[str | None, typer.Option("--reaction", metavar="NAME", help="Only those of this reaction or saga.")] = None,
    code: Annotated[str | None, typer.Option("--code", help="Only those refused with this code.")] = None,
    search: Search = None,
    sort: Sort = "-recorded_at",
    limit: Limit = 50,
) -> None:
    """List dead letters, the latest first."""
    filters = {"status": status, "reaction": reaction, "code": code, "q": search, "sort": sort}
    page = client_of(context).rows(path("dead-letters"), limit, **filters)
    output_of(context).rows(page, LETTER_COLUMNS, "Nothing was left undone.")


@letters.command("show")
def show_letter(context: typer.Context, letter_id: LetterId) -> None:
    """Show a dead letter: what was wanted, because of what, and why it was not done."""
    output_of(context).record(client_of(context).one(path("dead-letters", letter_id)), f"Dead letter {letter_id}", LETTER_PROPERTIES)


@letters.command()
def replay(context: typer.Context, letter_id: LetterId) -> None:
    """Have it asked for again, once what was in its way is mended."""
    result = client_of(context).ask(path("dead-letters", letter_id, "replay"), {})
    output_of(context).done(result, f"It is asked for again: `aureus dead-letters show {letter_id}` says what came of it.")


@letters.command()
def discard(
    context: typer.Context,
    letter_id: LetterId,
    because: Annotated[str, typer.Option("--because", "-m", metavar="TEXT", help="Why it need not be done; it goes on record.")],
) -> None:
    """Decide that it need not be done."""
    result = client_of(context).ask(path("dead-letters", letter_id, "discard"), {"reason": because})
    output_of(context).done(result, f"Discarded {letter_id}.")


@sagas.command("list")
def list_sagas(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="running, waiting, compensating, completed or compensated.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only those of this name.")] = None,
    cause: Annotated[str | None, typer.Option("--cause", metavar="STREAM", help="Only those because of this, such as budget:lake.")] = None,
    sort: Sort = "-started_at",
    limit: Limit = 50,
) -> None:
    """List sagas, the latest first."""
    page = client_of(context).rows(path("sagas"), limit, status=status, saga=name, cause_stream=cause, sort=sort)
    output_of(context).rows(page, SAGA_COLUMNS, "No saga was begun.")


@sagas.command("show")
def show_saga(context: typer.Context, saga_id: SagaId) -> None:
    """Show a saga and each of its steps."""
    out = output_of(context)
    saga = client_of(context).one(path("sagas", saga_id))
    if out.as_json:
        return out.json(saga)
    out.record({key: value for key, value in saga.items() if key != "steps"}, f"Saga {saga_id}", SAGA_PROPERTIES)
    if saga["steps"]:
        out.table(saga["steps"], STEP_COLUMNS)
    return None
