"""Questions in SQL to the archive: answered for one's own tenant, and nothing else is within reach of any of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from domain.kernel import JsonObject
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.archive import querying
from infra.archive.answering import ANSWER_BYTES, answer, fill, require_one_select
from infra.archive.fetching import fetched
from infra.archive.querying import Question, ask, job
from infra.archive.segment import ArchiveError
from infra.store import StoredEvent
from tests.support.archive import SEGMENT, Archived, archived
from tests.support.samples import samples

pytestmark = pytest.mark.anyio

SECRET = "of-the-rival"
HOSTILE = {
    "SELECT content FROM read_text('/etc/passwd')": "file system operations are disabled",
    "SELECT * FROM read_csv('/etc/passwd')": "file system operations are disabled",
    "SELECT * FROM read_parquet('{home}/**/*.parquet')": "file system operations are disabled",
    "SELECT * FROM '/etc/passwd.csv'": "file system operations are disabled",
    "SELECT * FROM glob('/etc/*')": "file system operations are disabled",
    "SELECT * FROM sniff_csv('/etc/passwd')": "file system operations are disabled",
    "SELECT * FROM read_parquet('https://example.org/x.parquet')": "",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')": "",
    "SELECT getenv('HOME')": "getenv does not exist",
    "SELECT * FROM duckdb_secrets()": "disabled",
    "SELECT * FROM query('COPY (SELECT 1) TO ''/tmp/out.csv''')": "single SELECT",
    "SELECT * FROM sqlite_scan('/etc/passwd', 'x')": "",
    "SELECT * FROM postgres_query('host=127.0.0.1', 'SELECT 1')": "",
    "SELECT * FROM missing_table": "does not exist",
    "SELECT 1/0::": "syntax error",
}
"""SELECTs that reach for what is not theirs, and what of the answer says so."""
NO_SELECT = (
    "COPY events TO '/tmp/out.csv'",
    "COPY (SELECT 1) TO '/tmp/out.parquet'",
    "ATTACH '/tmp/other.db'",
    "ATTACH 'postgresql://127.0.0.1/x' AS pg (TYPE postgres)",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE TABLE x AS SELECT 1",
    "DELETE FROM sealed",
    "INSERT INTO sealed SELECT * FROM sealed",
    "DROP VIEW events",
    "EXPORT DATABASE '/tmp/out'",
    "SELECT 1; SELECT 2",
    "CREATE SECRET s (TYPE s3)",
    "CHECKPOINT",
    "",
    ";",
)


@pytest.fixture
async def archive(database_url: str, tmp_path: Path) -> AsyncIterator[Archived]:
    async with archived(database_url, tmp_path, 800, sealed=0) as opened:
        opened_by_rival = (StreamWrite(f"budget:{SECRET}", 0, (samples()["budgets.budget_opened"],)),)
        await opened.ledger.append(Append("rival", "usr-them", opened_by_rival, uuid7()))
        await opened.seal(1, SEGMENT)
        await opened.seal(SEGMENT + 1, 768)
        yield opened


async def asked(archive: Archived, sql: str, tenant: str = "acme", **more: Any) -> JsonObject:
    seconds = more.pop("seconds", querying.SECONDS)
    question = Question(sql, tenant, more.pop("after", 0), more.pop("until", 768), **more)
    return await ask(archive.blobs, archive.segments, question, archive.home / "archive", seconds)


async def refusal(archive: Archived, sql: str, **more: Any) -> ArchiveError:
    with pytest.raises(ArchiveError) as refused:
        await asked(archive, sql, **more)
    return refused.value


async def test_what_was_sealed_answers_and_nothing_else_is_within_reach(archive: Archived) -> None:
    """Asked of the very database that the process asks, which has no environment besides; and once of the process."""
    counted = await asked(archive, "SELECT type, count(*) AS events FROM events GROUP BY 1 ORDER BY 1")
    assert counted["columns"] == [{"name": "type", "type": "VARCHAR"}, {"name": "events", "type": "BIGINT"}]
    own = [event for event in await archive.ledger.entries(0, 768) if event.tenant == "acme"]
    kinds = sorted({event.type for event in own})
    assert counted["rows"] == [[kind, sum(event.type == kind for event in own)] for kind in kinds]
    outside = await refusal(archive, "SELECT content FROM read_text('/etc/passwd')")
    assert (outside.code, "root:" in str(outside)) == ("query_refused", False)
    assert (await refusal(archive, "COPY events TO '/tmp/out.csv'")).code == "query_not_a_select"
    async with copied(archive, "acme") as copy:
        _what_is_told(copy, own)
        _long_answers_are_cut_and_say_so(copy)
        _hostile_sql_reaches_nothing(copy, archive.home)
    async with copied(archive, "acme", after=600, until=700) as copy:
        assert answer(copy, "SELECT min(position), max(position) FROM events", 10)["rows"] == [[601, 700]]
    async with copied(archive, "nobody") as copy:
        assert answer(copy, "SELECT count(*) FROM events", 10)["rows"] == [[0]]


@asynccontextmanager
async def copied(archive: Archived, tenant: str, after: int = 0, until: int = 768) -> AsyncIterator[Path]:
    """What of the archive a tenant may see, as the process has it."""
    async with fetched(archive.blobs, archive.segments, archive.home / "archive") as files:
        folder = files[0].path.parent
        copy = fill(job(files, Question("", tenant, after, until), folder))
        assert [path.name for path in folder.iterdir()] == [copy.name], "the segments are gone"
        yield copy


def _what_is_told(copy: Path, own: list[StoredEvent]) -> None:
    promised = answer(copy, "SELECT sum((data->>'amount_minor')::BIGINT) FROM events WHERE type = 'budgets.funds_reserved'", 1)
    assert int(promised["rows"][0][0]) == 100 * sum(event.type == "budgets.funds_reserved" for event in own)
    last = answer(copy, "FROM events ORDER BY position DESC LIMIT 1", 1)
    row = dict(zip((column["name"] for column in last["columns"]), last["rows"][0], strict=True))
    assert (row["position"], row["leaf"], row["body"]) == (own[-1].position, own[-1].leaf.hex(), own[-1].body.decode())
    everywhere = "SELECT count(*) FROM {table} WHERE {table}::VARCHAR LIKE '%" + SECRET + "%' OR stream = 'budget:" + SECRET + "'"
    for table in ("events", "sealed"):
        assert answer(copy, everywhere.format(table=table), 1)["rows"] == [[0]]
    tables = answer(copy, "SELECT table_name FROM information_schema.tables ORDER BY 1", 10)
    assert tables["rows"] == [["events"], ["sealed"]]


def _long_answers_are_cut_and_say_so(copy: Path) -> None:
    cut = answer(copy, "SELECT position FROM events ORDER BY 1", 10)
    assert (len(cut["rows"]), cut["truncated"]) == (10, True)
    wide = answer(copy, f"SELECT repeat('x', {ANSWER_BYTES // 4}) FROM range(100)", 100)
    assert (len(wide["rows"]), wide["truncated"]) == (5, True)
    values = "SELECT 9007199254740993, 1.5::DOUBLE, 'NaN'::DOUBLE, 'ff'::BLOB, DATE '2026-03-03', 1.10::DECIMAL(5,2), [1], {'a': 1}, NULL"
    told = ["9007199254740993", 1.5, "nan", "6666", "2026-03-03", "1.10", [1], {"a": 1}, None]
    assert answer(copy, values, 1)["rows"] == [told]


def _hostile_sql_reaches_nothing(copy: Path, home: Path) -> None:
    for sql, told in HOSTILE.items():
        with pytest.raises(ArchiveError) as refused:
            answer(copy, sql.replace("{home}", str(home)), 10)
        assert (refused.value.code, told in refused.value.message) == ("query_refused", True), (sql, refused.value.message)
    for sql in NO_SELECT:
        with pytest.raises(ArchiveError) as refused:
            require_one_select(sql)
        assert (refused.value.code, "SELECT" in refused.value.remedy) == ("query_not_a_select", True), sql
        if sql.strip(";"):
            before = copy.read_bytes()
            with suppress(ArchiveError):
                answer(copy, sql, 10)
            assert copy.read_bytes() == before, sql
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


async def test_a_question_that_takes_too_much_ends_and_so_does_one_that_nobody_waits_for(archive: Archived) -> None:
    begun = time.monotonic()
    refused = await refusal(archive, "SELECT sum(a.range * b.range) FROM range(1000000000) a, range(1000000) b", seconds=2)
    assert (refused.code, time.monotonic() - begun < 20) == ("query_too_long", True)
    refused = await refusal(archive, "SELECT list(a.range || repeat('x', 1000)) FROM range(100000000) a")
    assert refused.code == "query_too_large"
    waiting = asyncio.create_task(asked(archive, "SELECT count(*) FROM range(1000000000) a, range(1000000) b"))
    while not working():  # noqa: ASYNC110 - it is another process that is waited for
        await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert working() == []
    assert not list((archive.home / "archive").iterdir()), "their copies are gone"


def working() -> list[int]:
    """The processes that answer questions."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                command = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if querying.MODULE.encode() in command:
                found.append(int(place.name))
    return found
