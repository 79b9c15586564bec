"""Two API processes and one Redis: 64 clients at once get exactly what one actor may have, whichever they ask."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.access import ALLOWED, granted, people
from bench.aureus import serving
from tests.support.redis import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_limit_holds_exactly_over_two_processes(database_url: str, tmp_path: Path, redis_server: RedisServer) -> None:
    (ana,) = await people(tmp_path, database_url, 1)
    settings = {"AUREUS_LIMIT_QUERIES": str(ALLOWED), "AUREUS_REDIS_URL": redis_server.url}

    def asked() -> int:
        with (
            serving(tmp_path, database_url, settings=settings) as one,
            serving(tmp_path, database_url, settings=settings, options=("--no-projections",)) as other,
        ):
            return asyncio.run(granted([one.port, other.port], ana))

    assert await asyncio.to_thread(asked) == ALLOWED
