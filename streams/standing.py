"""How events travel right now, as PostgreSQL knows it: how far each follower of the ledger is, who leads, which workers there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.read_models import READ_MODELS_LOCK
from infra.read_queries import NOBODYS, Reads
from streams.roster import ALL_WORKERS, FORGOTTEN_SECONDS, Seen

# An advisory lock of one number has its lower half in `objid`; one of two numbers has a half in each.
_LEADERS: Final = """
    SELECT locks.classid::bigint, locks.objid::bigint, locks.objsubid, activity.application_name
    FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locks.locktype = 'advisory' AND locks.granted
        AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_PROJECTIONS: Final = """
    SELECT p.name, p.version, p.position, p.stopped, hashtext(p.name)::bigint & 4294967295,
        coalesce((SELECT jsonb_object_agg(a.partition::text, a.position) FROM projections.ahead AS a
                  WHERE a.name = p.name AND a.position > p.position), '{}')
    FROM projections.positions AS p ORDER BY p.name
"""
_PLACES: Final = "SELECT name, position FROM streams.positions ORDER BY name"
ONE_NUMBER: Final = 1
"""`objsubid` of an advisory lock of one number."""


@dataclass(frozen=True)
class Moved:
    """A projection: where it stands, who leads it, and the partitions of it that are further when it is shared out."""

    name: str
    version: int
    position: int
    stopped: str | None
    led_by: str | None
    ahead: dict[str, int]


@dataclass(frozen=True)
class Standing:
    """`places`: how far each follower of the ledger is; `leaders`: which process holds a lock of one number."""

    projections: tuple[Moved, ...]
    places: dict[str, int]
    leaders: dict[int, str]
    workers: tuple[Seen, ...]


async def standing(reads: Reads) -> Standing:
    """Where everything that follows the ledger stands."""
    leaders: dict[int, str] = {}
    leading: dict[int, str] = {}
    for first, second, numbers, name in await reads.fetch(_LEADERS, (), tenant=NOBODYS):
        if numbers == ONE_NUMBER:
            leaders[second] = name
        elif first == READ_MODELS_LOCK:
            leading[second] = name
    rows = await reads.fetch(_PROJECTIONS, (), tenant=NOBODYS)
    moved = tuple(Moved(name, version, position, stopped, leading.get(key), ahead) for name, version, position, stopped, key, ahead in rows)
    workers = tuple(Seen(*row) for row in await reads.fetch(ALL_WORKERS, (FORGOTTEN_SECONDS,), tenant=NOBODYS))
    return Standing(moved, dict(await reads.fetch(_PLACES, (), tenant=NOBODYS)), leaders, workers)
