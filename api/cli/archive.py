"""`aureus archive`: the ledger sealed into segments, verified, asked in SQL, and replayed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Limit, client_of, output_of
from api.cli.output import Column, Output, when

app = typer.Typer()
archive = typer.Typer(help="The ledger sealed into segments that prove themselves, and questions to them in SQL.", no_args_is_help=True)
app.add_typer(archive, name="archive")

POLL_SECONDS: Final = 0.3
SegmentId = Annotated[str, typer.Argument(metavar="SEGMENT", help="Its id, such as 000000000001-000000065536.")]
COLUMNS = (
    Column("segment", "segment_id"),
    Column("events", "events", right=True),
    Column("bytes", "parquet_bytes", right=True),
    Column("bytes/event", lambda row: f"{row['parquet_bytes'] / row['events']:.0f}", right=True),
    Column("parquet sha256", "parquet_sha256"),
    when("sealed at", "sealed_at"),
)
PROPERTIES = ("first", "last", "events", "parquet_bytes", "parquet_sha256", "tiles_sha256", "manifest_sha256", "root", "checkpoint_size")


@archive.command()
def seal(
    context: typer.Context,
    until: Annotated[
        int | None,
        typer.Option("--until", metavar="POSITION", min=1, help="Up to the last whole tile before it; all there is if not given."),
    ] = None,
) -> None:
    """Seal the ledger into segments, and wait until that is done."""
    client, out = client_of(context), output_of(context)
    result = client.ask(path("archive", "seal"), {} if until is None else {"until": until})
    status = _wait(client, out, result["position"])
    if status["failure"]:
        raise Failure(ExitCode.REFUSED, status["failure_code"], status["failure"], remedy="Mend that, and ask again.")
    out.done(
        {**result, **status},
        f"Sealed up to position {status['sealed']}, as {_segments(status['segments'])} of {status['parquet_bytes']:,} bytes.",
    )


def _wait(client: Client, out: Output, position: int) -> Json:
    begun: Json = client.one(path("archive"), at_least=position)
    status = begun
    with out.progress() as report:
        while status["wanted"] > status["sealed"]:
            report("sealing", status["sealed"] - begun["sealed"], status["wanted"] - begun["sealed"])
            time.sleep(POLL_SECONDS)
            status = client.one(path("archive"))
    return status


def _segments(count: int) -> str:
    return "1 segment" if count == 1 else f"{count} segments"


@archive.command("list")
def list_(context: typer.Context, limit: Limit = 50) -> None:
    """List the segments, the first positions first."""
    page = client_of(context).rows(path("archive", "segments"), limit, sort="first")
    output_of(context).rows(page, COLUMNS, "Nothing is sealed.")


@archive.command()
def show(context: typer.Context, segment: SegmentId) -> None:
    """Show a segment: what it holds, and under which hashes its files are kept."""
    output_of(context).record(client_of(context).one(path("archive", "segments", segment)), f"Segment {segment}", PROPERTIES)


@archive.command()
def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over `events`; - reads it from standard input.")],
    after: Annotated[int | None, typer.Option("--after", metavar="POSITION", min=0, help="Only events behind this position.")] = None,
    until: Annotated[int | None, typer.Option("--until", metavar="POSITION", min=1, help="Only events up to this position.")] = None,
    limit: Limit = 1_000,
) -> None:
    """Ask the archive in SQL (DuckDB): your own events, and nothing else within reach."""
    from api.cli.options import content_of

    client, out = client_of(context), output_of(context)
    text = content_of(Path("-")).decode() if sql == "-" else sql
    asked = {"sql": text, "after": after, "until": until, "limit": limit}
    answer = client.ask(path("archive", "query"), {name: value for name, value in asked.items() if value is not None})
    if out.as_json:
        return out.json(answer)
    columns = [Column(column["name"], str(at)) for at, column in enumerate(answer["columns"])]
    out.table([{str(at): value for at, value in enumerate(row)} for row in answer["rows"]], columns)
    more = "; more rows were left off" if answer["truncated"] else ""
    return out.note(f"Positions {answer['first']} to {answer['last']}{more}.")


@archive.command()
def verify(context: typer.Context) -> None:
    """Check every segment from its bytes up, on the machine that holds the ledger: files, rows, tiles, signatures and tree."""
    import asyncio

    from api.cli.fsck import database
    from api.cli.service import setup_checked
    from infra.archive.verifying import verify as check
    from infra.s3_blobs import opened_blobs
    from infra.settings import Settings

    async def work(dsn: str, report: Any) -> Any:
        settings = Settings.from_environment()
        async with opened_blobs(settings.s3, settings.blobs_dir) as blobs:
            return await check(dsn, blobs, settings.archive_dir, report)

    out = output_of(context)
    with setup_checked(), database() as dsn, out.progress() as report:
        checked = asyncio.run(work(dsn, report))
    _tell(out, checked)


def _tell(out: Output, checked: Any) -> None:
    from dataclasses import asdict

    if out.as_json:
        out.json({"ok": checked.ok, **asdict(checked)})
        if not checked.ok:
            raise typer.Exit(ExitCode.NOT_VERIFIED)
        return
    if not checked.ok:
        shown = [f"  {problem.segment}: {problem.check}: {problem.found}" for problem in checked.problems]
        message = "\n".join(["The archive is not what was sealed:", *shown])
        remedy = "Restore the files from a backup of the blob store; the ledger still holds every event of them."
        raise Failure(ExitCode.NOT_VERIFIED, "archive_tampered", message, remedy=remedy)
    out.text(
        f"Verified {_segments(checked.segments)} with {checked.events} events, and {checked.ledger_events} more of the ledger: "
        f"{checked.signatures} signatures, every file, row, leaf and tile, up to the latest checkpoint."
    )
    out.text(f"  root key   {checked.root_key}")


@archive.command()
def replay(
    context: typer.Context, name: Annotated[str | None, typer.Argument(metavar="[PROJECTION]", help="All when not given.")] = None
) -> None:
    """Build read models from the segments, and from the ledger what follows them, and compare them with the live ones."""
    from api.cli.projections import compare

    compare(client_of(context), name, archive=True)
