"""What may be asked of replays: that one be built or dropped, which queries are kept, and - by Aureus itself - what came of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, assert_never

from pydantic import Field

from domain.access import ActorId
from domain.contexts import CONTEXTS
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.replays import (
    BUILDER,
    AuditQueryRetired,
    AuditQuerySaved,
    Context,
    Count,
    KeptQuery,
    LoginHandedOut,
    Name,
    Parameter,
    Position,
    QueryId,
    QueryRun,
    Replay,
    ReplayBuilt,
    ReplayDropped,
    ReplayEvent,
    ReplayFailed,
    ReplayId,
    ReplayRequested,
    SavedQuery,
    Sql,
    SqlState,
    TableBuilt,
    evolve,
    evolve_query,
)
from domain.saved_queries import BUILT_IN
from domain.values import Label, Role, Sha256, Text

OVERSEERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})
ITSELF: Final = frozenset({Role.ADMIN})
"""The role that Aureus' own reactions act in; who else holds it is refused by `_require_itself`."""
RESERVED: Final = frozenset({"aureus", "build", "information", "pg", "read", "replay"})
"""First words of schemas that are somebody else's: of the database, of the read models, and of the replays' own tables."""
_PLACE: Final = re.compile(r"\$(\d+)")


class RequestReplay(Command, name="replays.request_replay", roles=OVERSEERS):
    """Have the ledger folded up to a position, for some contexts or for all, into tables that can be asked in SQL."""

    replay_id: ReplayId
    position: Position
    contexts: Annotated[tuple[Context, ...], Field(max_length=len(CONTEXTS))] = CONTEXTS


class DropReplay(Command, name="replays.drop_replay", roles=OVERSEERS):
    """Throw a replay's tables and its role away; a build that is on its way is given up."""

    replay_id: ReplayId
    comment: Text | None = None


class FinishReplay(Command, name="replays.finish_replay", roles=ITSELF):
    """Put on record what was built."""

    replay_id: ReplayId
    position: Position
    schema_prefix: Name
    role: Name
    events: Count
    tables: tuple[TableBuilt, ...]
    differing: tuple[Name, ...] = ()


class FailReplay(Command, name="replays.fail_replay", roles=ITSELF):
    """Put on record that a replay could not be built, and why."""

    replay_id: ReplayId
    code: Label
    reason: Text


class HandOutLogin(Command, name="replays.hand_out_login", roles=OVERSEERS):
    """Have the name and the password of a replay's role shown, this once."""

    replay_id: ReplayId


class RecordQuery(Command, name="replays.record_query", roles=ITSELF):
    """Put on record that a query was run, by whom, and what it came to."""

    replay_id: ReplayId
    run_by: ActorId
    query_id: QueryId | None = None
    sql_sha256: Sha256
    rows: Count
    sqlstate: SqlState | None = None


class SaveAuditQuery(Command, name="replays.save_audit_query", roles=OVERSEERS):
    """Keep a query under an id, for everybody who may ask replays; `$1` stands for the first of its parameters."""

    query_id: QueryId
    title: Label
    sql: Sql
    parameters: Annotated[tuple[Parameter, ...], Field(max_length=20)] = ()


class RetireAuditQuery(Command, name="replays.retire_audit_query", roles=OVERSEERS):
    """Keep a query no longer."""

    query_id: QueryId


ReplayCommand = RequestReplay | DropReplay | FinishReplay | FailReplay | HandOutLogin | RecordQuery


def decide(replay: Replay, command: ReplayCommand, asked: Asked) -> list[ReplayEvent]:
    match command:
        case RequestReplay():
            return [_requested(replay, command)]
        case DropReplay():
            _require_known(replay, command.replay_id)
            return [ReplayDropped(**command.model_dump())] if replay.status != "dropped" else []
        case FinishReplay():
            _require_itself(asked)
            _require_requested(replay, command.replay_id)
            return [ReplayBuilt(**command.model_dump())]
        case FailReplay():
            _require_itself(asked)
            _require_requested(replay, command.replay_id)
            return [ReplayFailed(**command.model_dump())]
        case HandOutLogin():
            return [_handed_out(replay, command, asked)]
        case RecordQuery():
            _require_itself(asked)
            _require_built(replay, command.replay_id)
            return [QueryRun(**command.model_dump())]
        case _:
            assert_never(command)


def _requested(replay: Replay, command: RequestReplay) -> ReplayRequested:
    require(
        replay.status in {"unknown", "failed", "dropped"},
        "replay_exists",
        f"There is a replay {command.replay_id} already.",
        field="replay_id",
        status=replay.status,
        remedy="Choose another id, or drop the one that is there.",
    )
    require(
        command.replay_id.partition("_")[0] not in RESERVED,
        "replay_id_reserved",
        f"Schemas whose names begin with {command.replay_id.partition('_')[0]}_ are not a replay's.",
        field="replay_id",
        remedy="Choose an id that begins with another word, such as june.",
    )
    unknown = [context for context in command.contexts if context not in CONTEXTS]
    require(
        bool(command.contexts) and not unknown,
        "context_not_found",
        f"No context is called {unknown[0]}." if unknown else "A replay is of one context at least.",
        field="contexts",
        known=list(CONTEXTS),
        remedy="Name some of those that are known, or leave this out for all of them.",
    )
    named = tuple(context for context in CONTEXTS if context in command.contexts)
    return ReplayRequested(replay_id=command.replay_id, position=command.position, contexts=named)


def _handed_out(replay: Replay, command: HandOutLogin, asked: Asked) -> LoginHandedOut:
    _require_built(replay, command.replay_id)
    require(
        not replay.handed_out,
        "login_handed_out",
        f"The password of replay {command.replay_id} was shown once, and is not shown again.",
        field="replay_id",
        remedy="Drop the replay and have it built again, or send queries through Aureus: they need no password.",
    )
    assert replay.role is not None
    return LoginHandedOut(replay_id=command.replay_id, role=replay.role, handed_to=asked.by.actor)


def _require_itself(asked: Asked) -> None:
    require(
        asked.by.actor == BUILDER,
        "only_aureus_itself",
        "Aureus itself says what it has built and what it was asked; nobody says it in its place.",
        remedy="Request a replay: the rest follows.",
    )


def _require_known(replay: Replay, replay_id: str) -> None:
    require(
        replay.status != "unknown",
        "replay_not_found",
        f"There is no replay {replay_id}.",
        field="replay_id",
        remedy="`aureus replays list` shows those there are.",
    )


def _require_requested(replay: Replay, replay_id: str) -> None:
    _require_known(replay, replay_id)
    require(
        replay.status == "requested",
        f"replay_{replay.status}",
        f"Replay {replay_id} is {replay.status} already.",
        field="replay_id",
        remedy="Request another one.",
    )


def _require_built(replay: Replay, replay_id: str) -> None:
    _require_known(replay, replay_id)
    require(
        replay.status == "built",
        "replay_not_built",
        f"The tables of replay {replay_id} are not there: it is {replay.status}.",
        field="replay_id",
        status=replay.status,
        remedy="Wait until it is built." if replay.status == "requested" else "Request it again.",
    )


def _facts(_replay: Replay, command: ReplayCommand) -> JsonObject:
    """How much of the ledger would be laid open to SQL."""
    return {"contexts": sorted(command.contexts)} if isinstance(command, RequestReplay) else {}


def decide_query(kept: KeptQuery, command: SaveAuditQuery | RetireAuditQuery, _asked: Asked) -> list[AuditQuerySaved | AuditQueryRetired]:
    require(
        all(query.query_id != command.query_id for query in BUILT_IN),
        "query_is_built_in",
        f"{command.query_id} came with Aureus, and asks the same everywhere.",
        field="query_id",
        remedy="Save yours under another id.",
    )
    if isinstance(command, SaveAuditQuery):
        return _saved(kept, SavedQuery(**command.model_dump()))
    require(
        kept.query is not None,
        "query_not_found",
        f"No query {command.query_id} is kept.",
        field="query_id",
        remedy="`aureus queries list` shows those there are.",
    )
    return [AuditQueryRetired(query_id=command.query_id)]


def _saved(kept: KeptQuery, query: SavedQuery) -> list[AuditQuerySaved | AuditQueryRetired]:
    names = [parameter.name for parameter in query.parameters]
    require(
        len(set(names)) == len(names),
        "parameter_named_twice",
        "Two parameters have the same name.",
        field="parameters",
        remedy="Give each a name of its own.",
    )
    highest = max((int(place) for place in _PLACE.findall(query.sql)), default=0)
    require(
        highest <= len(names),
        "parameter_not_described",
        f"The query uses ${highest}, and {len(names)} parameters are described.",
        field="parameters",
        remedy="Describe one parameter for each of $1, $2 and so on, in that order.",
    )
    return [AuditQuerySaved(query=query)] if query != kept.query else []


REPLAYS: Final[Decider[Replay, ReplayCommand, ReplayEvent]] = Decider(
    context="replays",
    category="replay",
    initial=Replay(),
    evolve=evolve,
    decide=decide,
    commands=(RequestReplay, DropReplay, FinishReplay, FailReplay, HandOutLogin, RecordQuery),
    events=(ReplayRequested, ReplayBuilt, ReplayFailed, ReplayDropped, LoginHandedOut, QueryRun),
    entity=lambda command: command.replay_id,
    facts=_facts,
)
QUERIES: Final[Decider[KeptQuery, SaveAuditQuery | RetireAuditQuery, AuditQuerySaved | AuditQueryRetired]] = Decider(
    context="replays",
    category="auditquery",
    initial=KeptQuery(),
    evolve=evolve_query,
    decide=decide_query,
    commands=(SaveAuditQuery, RetireAuditQuery),
    events=(AuditQuerySaved, AuditQueryRetired),
    entity=lambda command: command.query_id,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (REPLAYS, QUERIES)
