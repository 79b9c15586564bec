"""The renderings of a pack: its entries told again, all that were asked for in one pass over them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from psycopg import sql

from domain.contexts import CONTEXTS
from domain.kernel import JsonObject, timestamp
from infra.packing.choosing import Chosen
from infra.packing.manifest import counts, root_of
from infra.packing.pack_file import PackFile
from infra.packing.plan import BuildFailed, Plan
from infra.packing.reading import Connection, Positions, copied, within
from infra.read_tables import LIVE, schema_name
from infra.verifier.notes import parse_note
from infra.views import VIEWS, About, ViewEvent
from infra.views.parquet import table_path, write_table
from projections.engine import Projection, ReadTable

BATCH_EVENTS: Final = 1_000
CHUNK_EVENTS: Final = 50_000
BEHIND_SECONDS: Final = 60.0
_AS_OF: Final = """
    SELECT doc FROM {rows} WHERE tenant = %s AND from_position <= %s AND to_position > %s ORDER BY id COLLATE "C"
"""
_COSIGNATURE_BYTES: Final = 8 + 64
Progress = Callable[[str, int, int], None]


def render(
    plan: Plan, chosen: Chosen, keys: int, pack: PackFile, connection: Connection, dsn: str, spool: Path, progress: Progress
) -> None:
    """Writes the views that the plan names and the pack has not."""
    _render_views(plan, chosen, keys, pack, connection, spool, progress)
    if "parquet" in plan.views and plan.whole:
        with psycopg.connect(dsn, autocommit=True) as reading:  # the read models are not the ledger's role's to read
            _render_tables(plan, pack, reading, spool / "table")


def _render_tables(plan: Plan, pack: PackFile, connection: Connection, aside: Path) -> None:
    """What the events lead to, read model by read model, as it stood after the last of them."""
    _wait_for(connection, plan.until)
    for context in CONTEXTS:
        projection: Projection = import_module(f"projections.{context}").PROJECTION
        for table in projection.tables:
            path = table_path(table.name)
            if pack.has(path):
                continue
            write_table(aside, table.row, _rows(plan, connection, projection, table))
            pack.add_file(path, aside)
            aside.unlink()


def _rows(plan: Plan, connection: Connection, projection: Projection, table: ReadTable[Any]) -> Iterator[JsonObject]:
    rows = sql.Identifier(schema_name(projection.name, LIVE), table.name)
    with connection.transaction(), connection.cursor("rows") as cursor:
        for (document,) in cursor.execute(sql.SQL(_AS_OF).format(rows=rows), (table.tenant or plan.tenant, plan.until, plan.until)):
            yield document


def _wait_for(connection: Connection, position: int) -> None:
    """Until the read models have come as far as the pack does."""
    deadline = time.monotonic() + BEHIND_SECONDS
    while (reached := _reached(connection)) < position:
        if time.monotonic() > deadline:
            message = f"The read models are at position {reached}, and the pack ends at {position}: see `aureus projections status`."
            raise BuildFailed("read_models_behind", message)
        time.sleep(0.1)


def _reached(connection: Connection) -> int:
    row = connection.execute("SELECT coalesce(min(position), 0) FROM projections.positions").fetchone()
    return int(row[0]) if row else 0


def _render_views(plan: Plan, chosen: Chosen, keys: int, pack: PackFile, connection: Connection, spool: Path, progress: Progress) -> None:
    views = [view for view in VIEWS if view.name in plan.views and not pack.has(view.path)]
    if not views:
        return
    folder = spool / "views"
    folder.mkdir(exist_ok=True)
    targets = [(view, folder / Path(view.path).name) for view in views]
    about = _about(plan, chosen, keys)
    writings = [view.open(about, target) for view, target in targets]
    done = 0
    for chunk in chosen.chunks(CHUNK_EVENTS):
        for events in _batches(connection, chunk):
            for writing in writings:
                writing.add(events)
            done += len(events)
            progress("views", done, chosen.choice.entries)
    for writing in writings:
        writing.close()
    for view, target in targets:
        pack.add_file(view.path, target)
        target.unlink()


def _batches(connection: Connection, chunk: Positions) -> Iterator[list[ViewEvent]]:
    query = f"SELECT position, body, leaf FROM ledger.events WHERE {within(chunk)} ORDER BY position"  # noqa: S608 - numbers
    batch: list[ViewEvent] = []
    for position, body, leaf in copied(connection, query, ["int8", "bytea", "bytea"]):
        batch.append(ViewEvent(position, orjson.loads(body), leaf))
        if len(batch) == BATCH_EVENTS:
            yield batch
            batch = []
    if batch:
        yield batch


def _about(plan: Plan, chosen: Chosen, keys: int) -> About:
    return About(
        ledger=plan.ledger,
        tenant=plan.tenant,
        export_id=plan.export_id,
        recipient=plan.recipient,
        created_at=plan.created_at,
        selection=plan.selection,
        after=plan.after,
        until=plan.until,
        checkpoint_size=plan.checkpoint_size,
        checkpoint_root=base64.b64encode(root_of(plan)).decode(),
        witnesses=_witnesses(plan),
        counts=counts(chosen.choice, keys),
        profile=plan.profile,
    )


def _witnesses(plan: Plan) -> list[str]:
    """Who cosigned the checkpoint, and when; what a witness signs begins with the time."""
    signatures = parse_note(plan.checkpoint.encode()).signatures
    times = [(one.name, int.from_bytes(one.blob[:8], "big")) for one in signatures if len(one.blob) == _COSIGNATURE_BYTES]
    return [f"{name}, {timestamp(datetime.fromtimestamp(seconds, UTC))}" for name, seconds in times]
