"""A replay: the ledger folded once more up to a position, into tables of its own, for an auditor who asks in SQL.

Who may look, up to where it was folded, what came of it and every query that was run is on record; so are the queries worth keeping.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.access import ActorId
from domain.kernel import Event
from domain.values import MAX_SAFE_INTEGER, Label, Sha256, Text

BUILDER: Final = "svc-reactions"
"""Builds replays and runs queries on them: Aureus itself, and nobody else."""
EVENTS_SCHEMA: Final = "ledger"
"""The part of every replay that holds the events themselves."""
SQL_LENGTH_MAX: Final = 20_000

Count = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]
Position = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER, strict=True)]
ReplayId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=20)]
"""It becomes part of the names of schemas and of a role, and is typed in every query: short, small letters, no quotes."""
QueryId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$", max_length=60)]
Context = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]*$", max_length=40)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
Sql = Annotated[str, StringConstraints(min_length=1, max_length=SQL_LENGTH_MAX, strip_whitespace=True)]
SqlState = Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{5}$")]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableBuilt(_Value):
    """One table of a replay: how many rows held at its position, and the digest over every version of every row up to there."""

    context: Context
    table: Name
    rows: Count
    digest: Sha256


class Parameter(_Value):
    """One value that a query is given, `$1` being the first: what it is called, what it means, and what it is when nobody says."""

    name: Name
    description: Label
    default: Label | None = None


class SavedQuery(_Value):
    """A question to a replay, in SQL, with `$1`, `$2`, ... for its parameters in their order."""

    query_id: QueryId
    title: Label
    sql: Sql
    parameters: tuple[Parameter, ...] = ()


class ReplayRequested(Event, name="replays.replay_requested"):
    """Somebody wants the ledger folded up to a position, for these contexts, into tables to ask in SQL."""

    replay_id: ReplayId
    position: Position
    contexts: tuple[Context, ...]


class ReplayBuilt(Event, name="replays.replay_built"):
    """The tables are there, and the role that may read them and nothing else.

    `schema_prefix` is what the names of its schemas begin with. `differing` are the tables whose live rows, as of the same position,
    are others: a fold was changed since, or somebody changed the live rows.
    """

    replay_id: ReplayId
    position: Position
    schema_prefix: Name
    role: Name
    events: Count
    tables: tuple[TableBuilt, ...]
    differing: tuple[Name, ...] = ()


class ReplayFailed(Event, name="replays.replay_failed"):
    """The tables could not be built; nothing is left of them."""

    replay_id: ReplayId
    code: Label
    reason: Text


class ReplayDropped(Event, name="replays.replay_dropped"):
    """Nobody needs the tables any more: they go, and the role with them."""

    replay_id: ReplayId
    comment: Text | None = None


class LoginHandedOut(Event, name="replays.login_handed_out"):
    """The password of the replay's role was shown to somebody, this once."""

    replay_id: ReplayId
    role: Name
    handed_to: ActorId


class QueryRun(Event, name="replays.query_run"):
    """Somebody ran a query: the SHA-256 of its text, how many rows it was answered with, and, when it failed, PostgreSQL's code for why."""

    replay_id: ReplayId
    run_by: ActorId
    query_id: QueryId | None = None
    sql_sha256: Sha256
    rows: Count
    sqlstate: SqlState | None = None


class AuditQuerySaved(Event, name="replays.audit_query_saved"):
    """A query is kept under this id, and reads like this from now on."""

    query: SavedQuery


class AuditQueryRetired(Event, name="replays.audit_query_retired"):
    """A query is kept no longer."""

    query_id: QueryId


ReplayEvent = ReplayRequested | ReplayBuilt | ReplayFailed | ReplayDropped | LoginHandedOut | QueryRun
Status = Literal["unknown", "requested", "built", "failed", "dropped"]


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay on its way from the request until it is dropped."""

    status: Status = "unknown"
    position: int = 0
    role: str | None = None
    handed_out: bool = False


def evolve(replay: Replay, event: ReplayEvent) -> Replay:
    match event:
        case ReplayRequested():
            return Replay("requested", event.position)
        case ReplayBuilt():
            return replace(replay, status="built", role=event.role)
        case ReplayFailed():
            return replace(replay, status="failed")
        case ReplayDropped():
            return replace(replay, status="dropped", role=None)
        case LoginHandedOut():
            return replace(replay, handed_out=True)
        case QueryRun():
            return replay
        case _:
            assert_never(event)


@dataclass(frozen=True, slots=True)
class KeptQuery:
    """A saved query as it reads now; None before it was saved and after it was retired."""

    query: SavedQuery | None = None


def evolve_query(_kept: KeptQuery, event: AuditQuerySaved | AuditQueryRetired) -> KeptQuery:
    return KeptQuery(event.query if isinstance(event, AuditQuerySaved) else None)
