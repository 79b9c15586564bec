"""The FastAPI app of `bench.peers.web`: the least that could be asked of it.

It uses psycopg's C code, an async pool whose connections are open before the first request, autocommit (a statement on
its own is one round trip) and prepared statements; a stored view is text and passes to the wire as it lies.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from fastapi import FastAPI, Request, Response
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from bench import workload
from commands.budgets import ReserveFunds

DATABASE: Final = "BENCH_DATABASE_URL"
_CONNECTIONS: Final = 4  # 1 to 32 were tried: more gain no rate and lose p99
_PAYLOAD: Final = workload.payload()

Pool = AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]]


@asynccontextmanager
async def _lifespan(web: FastAPI) -> AsyncIterator[None]:
    pool: Pool = AsyncConnectionPool(os.environ[DATABASE], min_size=_CONNECTIONS, open=False, kwargs={"autocommit": True})
    await pool.open(wait=True)
    web.state.pool = pool
    yield
    await pool.close()


app: Final = FastAPI(lifespan=_lifespan, openapi_url=None)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/validate")
async def validate(command: ReserveFunds) -> dict[str, Any]:
    """The body of a command, parsed and validated by the very model that our route uses."""
    return {"outcome": "valid", "budget_id": command.budget_id}


@app.post("/append")
async def append(command: ReserveFunds, request: Request) -> dict[str, Any]:
    """The same, and one durable row as large as ours."""
    pool: Pool = request.app.state.pool
    statement = "INSERT INTO rows (stream, version, entry) VALUES (%s, 1, %b) RETURNING position"
    async with pool.connection() as connection:
        row = await (await connection.execute(statement, (command.budget_id, _PAYLOAD), prepare=True)).fetchone()
    assert row is not None
    return {"outcome": "stored", "position": row[0]}


@app.get("/views/{view_id}")
async def view(view_id: str, request: Request) -> Response:
    """One row by its primary key."""
    pool: Pool = request.app.state.pool
    async with pool.connection() as connection:
        row = await (await connection.execute("SELECT view FROM views WHERE id = %s", (view_id,), prepare=True)).fetchone()
    return Response(row[0], media_type="application/json") if row else Response(status_code=404)
