"""Snapshots and rollbacks over REST: what an entity was at each of its versions, what going back would touch, and going back.

Snapshots are not stored: the ledger is replayed to the version, and the result compared with the digest that the action
which changed it next had signed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from api.asking import CommandAnswer, ask_of, require_stored, told
from api.dependents import Surroundings, broken_by_dataset, broken_by_pipeline, surroundings
from api.errors import ApiError
from api.routing import ContextRouter, Present, Reader, Reading
from commands import budgets, pipelines, policies
from commands.catalog import DATASETS, RollBackDataset
from commands.path import Ask
from domain.actions import ActionAllowed
from domain.budgets import root_of
from domain.catalog import Dataset
from domain.differences import differences
from domain.kernel import Command, Decider, JsonObject, Recorded, json_digest
from domain.pipelines import Pipeline
from domain.rollback import Version
from domain.values import EVERYBODY

EntityType = Literal["dataset", "pipeline", "budget", "policy"]
Broken = Callable[[Reader, str, Any, Any, str], Awaitable[list[str]]]
MAX_VERSIONS: Final = 500

router = ContextRouter(prefix="/v1", tags=["rollback"])


async def _nothing(_reader: Reader, _entity_id: str, _now: Any, _past: Any, _since: str) -> list[str]:
    return []


def _whole(snapshot: JsonObject, _entity_id: str) -> JsonObject | None:
    return snapshot


@dataclass(frozen=True)
class Kind:
    """A type of entity that can be rolled back.

    `stream` names the entity's stream after its category, `own` picks the entity's settings from the stream's, `command`
    asks for the rollback, `broken` finds what relies on what would vanish, and `datasets` are those that it touches.
    """

    decider: Decider[Any, Any, Any]
    command: Callable[[str, int, tuple[str, ...] | None], Command]
    stream: Callable[[str], str] = str
    own: Callable[[JsonObject, str], JsonObject | None] = _whole
    broken: Broken = _nothing
    datasets: Callable[[Any, Any], set[str]] = lambda _now, _past: set()

    def settings(self, state: Any, entity_id: str) -> JsonObject | None:
        snapshot = self.decider.snapshot(state)
        return None if snapshot is None else self.own(snapshot, entity_id)


def _touched(*states: Pipeline) -> set[str]:
    deployments = [state.settings.deployment for state in states]
    return {dataset_id for deployment in deployments if deployment for dataset_id in deployment.outputs}


def _itself(*states: Dataset) -> set[str]:
    return {state.dataset_id for state in states}


KINDS: Final[dict[EntityType, Kind]] = {
    "dataset": Kind(
        DATASETS,
        lambda dataset_id, version, broken: RollBackDataset(dataset_id=dataset_id, to_version=version, broken=broken),
        broken=broken_by_dataset,
        datasets=_itself,
    ),
    "pipeline": Kind(
        pipelines.DECIDER,
        lambda pipeline_id, version, broken: pipelines.RollBackPipeline(pipeline_id=pipeline_id, to_version=version, broken=broken),
        broken=broken_by_pipeline,
        datasets=_touched,
    ),
    "budget": Kind(
        budgets.DECIDER,
        lambda budget_id, version, broken: budgets.RollBackSettings(budget_id=budget_id, to_version=version, broken=broken),
        stream=root_of,
        own=lambda snapshot, budget_id: snapshot.get(budget_id),
    ),
    "policy": Kind(
        policies.DECIDER,
        lambda _entity_id, version, _broken: policies.RollBackPolicies(to_version=version),
        stream=lambda _entity_id: "active",
    ),
}
"""Of policies there is one set in force, whatever its entity is called."""


class Step(BaseModel):
    """One version of an entity: the event that made it, and the digest of the settings since then."""

    version: int
    position: int
    at: str
    event: str
    actor: str
    action_id: str | None
    sha256: str | None


class History(BaseModel):
    """Versions, the latest first."""

    items: list[Step]
    next_cursor: str | None


class Snapshot(BaseModel):
    """The settings of an entity at one version.

    `verified` says whether they are what the action that changed them next, `recordedBy`, had signed; null where none was.
    """

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    id: str
    timestamp: str
    entity_type: EntityType
    entity_id: str
    version: int
    snapshot_data: JsonObject
    sha256: str
    recorded_by: str | None
    verified: bool | None
    rollback_script: str


class Change(BaseModel):
    """One setting: how it reads now, and how it would; null where it is not."""

    field: str
    now: Any
    then: Any


class Preview(BaseModel):
    """What a rollback would do and touch, and what the Guard would say to whoever asks for this: `outcome` and, if not allowed, why."""

    entity_type: EntityType
    entity_id: str
    stream: str
    version: int
    to_version: int
    changes: list[Change]
    broken: list[str]
    touches: Surroundings
    outcome: Literal["allowed", "blocked", "requires_approval"]
    code: str | None
    message: str | None
    details: JsonObject
    policy_results: list[JsonObject]
    approval: JsonObject | None
    rollback_script: str


class RollbackRequest(BaseModel):
    """Which entity goes back to which of its versions."""

    model_config = ConfigDict(extra="forbid")

    entity_type: EntityType
    entity_id: str
    to_version: Version


@dataclass(frozen=True)
class Entity:
    """An entity with all that happened to it, as far as the reader looks back."""

    type: EntityType
    id: str
    history: list[Recorded[Any]]

    @property
    def kind(self) -> Kind:
        return KINDS[self.type]

    @property
    def stream(self) -> str:
        return f"{self.kind.decider.category}:{self.kind.stream(self.id)}"

    @property
    def version(self) -> int:
        return len(self.history)

    def has(self, version: int) -> bool:
        return 1 <= version <= self.version

    def state(self, version: int) -> Any:
        return self.kind.decider.replay(recorded.event for recorded in self.history[:version])

    def script(self, version: int) -> str:
        return f"aureus rollback {self.type} {self.id} --to {version}"

    def ask(self, to_version: int, broken: tuple[str, ...]) -> Command:
        return self.kind.command(self.id, to_version, broken or None)


async def _entity(reader: Reader, entity_type: EntityType, entity_id: str) -> Entity:
    entity = Entity(entity_type, entity_id, [])
    recorded = await reader.services.ledger.read_stream(reader.asker.tenant, entity.stream)
    return replace(entity, history=[each for each in recorded if reader.as_of is None or each.position <= reader.as_of])


async def _known(reader: Reader, entity_type: EntityType, entity_id: str) -> Entity:
    entity = await _entity(reader, entity_type, entity_id)
    if not entity.history or entity.kind.settings(entity.state(entity.version), entity_id) is None:
        message = f"There is no {entity_type} {entity_id!r}{' at that time' if reader.as_of is not None else ''}."
        raise ApiError(404, f"{entity_type}_not_found", message, field="entity_id", remedy="List them to see what is there.")
    return entity


@router.query("/history/{entity_type}/{entity_id}", roles=EVERYBODY)
async def history(
    entity_type: EntityType,
    entity_id: str,
    reader: Reading,
    limit: Annotated[int, Query(ge=1, le=MAX_VERSIONS, description="Versions per page.")] = 50,
    cursor: Annotated[int | None, Query(ge=1, description="The next_cursor of the page before.")] = None,
) -> History:
    """The versions of an entity, the latest first: what made each, and whether its settings differ."""
    entity = await _known(reader, entity_type, entity_id)
    last = min(entity.version, (cursor or entity.version + 1) - 1)
    first = max(1, last - limit + 1)
    steps = list(_steps(entity, first, last))[::-1]
    return History(items=steps, next_cursor=str(first) if first > 1 else None)


def _steps(entity: Entity, first: int, last: int) -> Iterator[Step]:
    decider, state = entity.kind.decider, entity.state(first - 1)
    for recorded in entity.history[first - 1 : last]:
        state = decider.evolve(state, recorded.event)
        settings = entity.kind.settings(state, entity.id)
        yield Step(
            version=recorded.version,
            position=recorded.position,
            at=recorded.at_text,
            event=recorded.event.event_name,
            actor=recorded.actor,
            action_id=str(recorded.causation) if recorded.causation else None,
            sha256=None if settings is None else json_digest(settings),
        )


@router.query("/snapshots/{entity_type}/{entity_id}", roles=EVERYBODY, recorded=True)
async def snapshot(
    entity_type: EntityType,
    entity_id: str,
    reader: Reading,
    version: Annotated[int | None, Query(ge=1, description="One of its versions; the latest when left out.")] = None,
) -> Snapshot:
    """The settings of an entity at one of its versions, replayed from the ledger and checked against what was signed."""
    entity = await _known(reader, entity_type, entity_id)
    chosen = version or entity.version
    state = entity.state(chosen) if entity.has(chosen) else None
    settings = None if state is None else entity.kind.settings(state, entity_id)
    if settings is None:
        message = f"{entity_type} {entity_id} has no version {chosen}; the latest is {entity.version}."
        raise ApiError(404, "version_unknown", message, field="version", latest_version=entity.version, remedy="See `aureus history`.")
    signed = await _signed(reader, entity, chosen)
    return Snapshot(
        id=f"{entity_type}:{entity_id}@{chosen}",
        timestamp=entity.history[chosen - 1].at_text,
        entity_type=entity_type,
        entity_id=entity_id,
        version=chosen,
        snapshot_data=settings,
        sha256=json_digest(settings),
        recorded_by=signed[0] if signed else None,
        verified=signed[1] == json_digest(entity.kind.decider.snapshot(state) or {}) if signed else None,
        rollback_script=entity.script(chosen),
    )


async def _signed(reader: Reader, entity: Entity, version: int) -> tuple[str, str] | None:
    """The action that took a snapshot of that version before it changed the entity, and the digest it signed."""
    if version == entity.version:
        return None
    action_id = str(entity.history[version].causation)
    for recorded in await reader.services.ledger.read_stream(reader.asker.tenant, f"action:{action_id}"):
        taken = recorded.event.snapshot if isinstance(recorded.event, ActionAllowed) else None
        if taken is not None and (taken.stream, taken.version) == (entity.stream, version):
            return action_id, taken.sha256
    return None


@router.query("/rollbacks/preview", roles=EVERYBODY, limit="queries", recorded=True)
async def preview(
    entity_type: EntityType,
    entity_id: str,
    to_version: Annotated[int, Query(ge=1, description="The version whose settings would come back.")],
    reader: Present,
    request: Request,
) -> Preview:
    """What a rollback would change and touch, and what the Guard would say to it; nothing is written."""
    reader = await _latest(reader)
    entity = await _known(reader, entity_type, entity_id)
    now, past = entity.state(entity.version), entity.state(to_version) if entity.has(to_version) else None
    held, then = entity.kind.settings(now, entity_id), None if past is None else entity.kind.settings(past, entity_id)
    broken = await _broken(reader, entity, to_version)
    outcome = await reader.services.path.rehearse(await _asked(reader, request, entity.ask(to_version, broken)))
    touched = sorted(entity.kind.datasets(now, past)) if past is not None else []
    return Preview(
        entity_type=entity_type,
        entity_id=entity_id,
        stream=entity.stream,
        version=entity.version,
        to_version=to_version,
        changes=[] if held is None or then is None else [Change(field=name, now=a, then=b) for name, a, b in differences(held, then)],
        broken=list(broken),
        touches=await surroundings(reader, entity.stream, touched),
        outcome=outcome.outcome,
        code=outcome.code,
        message=outcome.message,
        details=outcome.facts,
        policy_results=list(outcome.policy_results),
        approval=outcome.approval,
        rollback_script=entity.script(to_version),
    )


@router.query(
    "/rollbacks",
    roles=EVERYBODY,  # the command path knows who may, and puts on record who tried
    methods=("POST",),
    response_model=CommandAnswer,
    responses={202: {"model": CommandAnswer, "description": "Parked: it waits for an approval."}},
)
async def roll_back(asked: RollbackRequest, reader: Present, request: Request) -> Response:
    """Give an entity the settings back that it had at an earlier version, by one compensating event."""
    reader = await _latest(reader)
    entity = await _entity(reader, asked.entity_type, asked.entity_id)
    broken = await _broken(reader, entity, asked.to_version)
    ask = await _asked(reader, request, entity.ask(asked.to_version, broken))
    return told(await reader.services.path.handle(ask), 200, request.scope["state"]["request_id"])


async def _latest(reader: Reader) -> Reader:
    """A reader of what is there now, whoever wrote it: what others rely on must not be overlooked."""
    await reader.services.wait_for((await reader.services.ledger.refresh()).size)
    return replace(reader, as_of=None)


async def _broken(reader: Reader, entity: Entity, to_version: int) -> tuple[str, ...]:
    if not entity.has(to_version):
        return ()
    since = entity.history[to_version - 1].at_text
    found = await entity.kind.broken(reader, entity.id, entity.state(entity.version), entity.state(to_version), since)
    return tuple(found)


async def _asked(reader: Reader, request: Request, command: Command) -> Ask:
    ask = ask_of(command, reader.asker, request.scope["headers"])
    if ask.artifacts:
        await require_stored(reader.services, ask)
    return ask
