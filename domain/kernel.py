"""The words every context speaks: event, command, refusal, decider, and the recorded fact with its envelope."""

from __future__ import annotations

import hashlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Generic, Self, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

from domain.values import ActorKind, Personal, Role, Tier

JsonObject = dict[str, Any]
_NOTHING: Final[Mapping[str, Any]] = types.MappingProxyType({})


class Refused(Exception):
    """A decision's no: a stable code, a sentence for people, and the facts that led to it.

    `facts` are JSON values. By convention `field` names the input at fault and `remedy` says what would help.
    """

    def __init__(self, code: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts: JsonObject = facts


def require(condition: bool, code: str, message: str, **facts: Any) -> None:
    """Refuse with `code` unless `condition` holds."""
    if not condition:
        raise Refused(code, message, **facts)


class UnknownEvent(Exception):
    """The store holds an event this code has no class for; a reader must stop, never skip."""


class Event(BaseModel):
    """Something that happened, named in the past tense: `class FundsReserved(Event, name="budgets.funds_reserved")`.

    A changed shape, a new optional field included, takes a new `schema`, an `upcast` from every older one, and a golden sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_name: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1
    personal: ClassVar[Mapping[str, Personal]] = types.MappingProxyType({})

    def __init_subclass__(cls, *, name: str, schema: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str, schema: int = 1, **kwargs: Any) -> None:  # type: ignore[override]
        super().__pydantic_init_subclass__(**kwargs)
        cls.event_name = name
        cls.schema_version = schema
        cls.personal = types.MappingProxyType(dict(_personal_fields(cls)))
        EVENTS.add(cls)

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """The data of an older schema in today's shape. Source: the class that changed the shape."""
        raise UnknownEvent(f"{cls.event_name} has no upcast from schema {schema} to {cls.schema_version}")

    @classmethod
    def load(cls, data: JsonObject, schema: int) -> Self:
        """The event from its stored data, upcast first when it was written under an older schema. Raises UnknownEvent for a newer one."""
        if schema != cls.schema_version:
            if not 1 <= schema < cls.schema_version:
                known = f"this version of Aureus knows it up to schema {cls.schema_version}"
                raise UnknownEvent(f"{cls.event_name} was written under schema {schema}, and {known}")
            data = cls.upcast(data, schema)
        event: Self = cls.__pydantic_validator__.validate_python(data)  # `model_validate` without its options: every event comes by
        return event

    def told(self) -> JsonObject:
        """Its data without personal fields: what may be told, remembered and shown."""
        data: JsonObject = self.__pydantic_serializer__.to_python(self, mode="json", exclude_none=True, exclude=set(self.personal) or None)
        return data

    def dump(self) -> JsonObject:
        """Its data as JSON values; absent optionals are left out, so a new optional field changes no old bytes."""
        data: JsonObject = self.__pydantic_serializer__.to_python(self, mode="json", exclude_none=True)
        return data


def _personal_fields(cls: type[BaseModel]) -> list[tuple[str, Personal]]:
    found = []
    for name, info in cls.model_fields.items():
        for mark in info.metadata:
            if not isinstance(mark, Personal):
                continue
            if mark.subject not in cls.model_fields:
                raise TypeError(f"{cls.__name__}.{name}: Personal names subject field {mark.subject!r}, which is not there")
            if info.is_required() or info.default is not None:
                raise TypeError(f"{cls.__name__}.{name}: a personal field must default to None, for it may be withheld")
            found.append((name, mark))
    return found


class EventRegistry:
    """Every event class by its stable name."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Event]] = {}

    def add(self, cls: type[Event]) -> None:
        known = self._classes.get(cls.event_name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise TypeError(f"two events are named {cls.event_name!r}: {known.__qualname__} and {cls.__qualname__}")
        self._classes[cls.event_name] = cls

    def __iter__(self) -> typing.Iterator[type[Event]]:
        return iter(sorted(self._classes.values(), key=lambda cls: cls.event_name))

    def find(self, name: str) -> type[Event] | None:
        return self._classes.get(name)

    def load(self, name: str, schema: int, data: JsonObject) -> Event:
        """The typed event of a stored one; raises UnknownEvent rather than guess."""
        cls = self._classes.get(name)
        if cls is None:
            raise UnknownEvent(f"no event is named {name!r} in this version of Aureus")
        return cls.load(data, schema)


EVENTS: Final = EventRegistry()

E_co = TypeVar("E_co", bound=Event, covariant=True)


@dataclass(frozen=True, slots=True)
class Recorded(Generic[E_co]):
    """An event as the ledger holds it: the fact, and who recorded it, when, where and as a result of what."""

    position: int
    tenant: str
    stream: str
    version: int
    id: UUID
    at: datetime
    actor: str
    correlation: UUID
    causation: UUID | None
    event: E_co
    leaf: bytes = b""

    @property
    def entity(self) -> str:
        """The entity's own id: the stream's name after its category (`budget:eu-lake` -> `eu-lake`)."""
        return self.stream.partition(":")[2]

    @property
    def at_text(self) -> str:
        return timestamp(self.at)

    @property
    def id_text(self) -> str:
        return str(self.id)

    @property
    def correlation_text(self) -> str:
        return str(self.correlation)

    @property
    def causation_text(self) -> str | None:
        return str(self.causation) if self.causation else None


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits: text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def json_digest(value: JsonObject) -> str:
    """SHA-256, in hex, over a value's canonical JSON."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def command_digest(command_name: str, intent: JsonObject) -> str:
    """The digest of a command's name and intent."""
    return json_digest({"command": command_name, "intent": intent})


class Command(BaseModel):
    """Something asked, in the imperative; it is its own request body.

    `roles` says who may ask at all; policies decide the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command_name: ClassVar[str] = ""
    roles: ClassVar[frozenset[Role]] = frozenset()
    restrains: ClassVar[bool] = False
    """It only takes power away, like a stop, or puts on record what Aureus itself did: carried out even when the policies cannot
    answer, for a no would be the risk."""
    personal: ClassVar[Mapping[str, Personal]] = types.MappingProxyType({})

    def __init_subclass__(cls, *, name: str, roles: frozenset[Role], **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str, roles: frozenset[Role], **kwargs: Any) -> None:  # type: ignore[override]
        super().__pydantic_init_subclass__(**kwargs)
        cls.command_name = name
        cls.roles = roles
        cls.personal = types.MappingProxyType(dict(_personal_fields(cls)))

    def intent(self) -> JsonObject:
        """What is asked, as the ledger may keep it: personal fields are left out."""
        data: JsonObject = self.__pydantic_serializer__.to_python(self, mode="json", exclude_none=True, exclude=set(self.personal) or None)
        return data

    def past_version(self) -> int | None:
        """The version of its stream whose state the decision needs as well (`Asked.past`); a rollback names one."""
        return None

    def relies_on(self) -> tuple[str, ...]:
        """Streams whose states the decision needs (`Asked.others`), and which must not move before it is written."""
        return ()

    def digest(self) -> str:
        """SHA-256 over the command's name and canonical JSON; an approval is bound to it."""
        return command_digest(self.command_name, self.intent())


@dataclass(frozen=True, slots=True)
class Holding:
    """A role that reaches part of a tenant only: some domains or some streams, until it ends. An explicit grant gives one."""

    role: Role
    source: str
    """The id of the grant it comes from."""
    domains: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()
    until: datetime | None = None

    def reaches(self, stream: str, domain: str | None, at: datetime) -> bool:
        return (self.until is None or at < self.until) and (stream in self.streams or (domain is not None and domain in self.domains))


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: an opaque id in one tenant, with the roles held at that moment."""

    actor: str
    tenant: str
    roles: frozenset[Role]
    kind: ActorKind = ActorKind.PERSON
    owner: str | None = None
    """The person who answers for an agent or a service."""
    domains: frozenset[str] | None = None
    """The data domains that `roles` reach; None: all of them. What belongs to no domain is reached in any case."""
    holdings: tuple[Holding, ...] = ()
    scopes: frozenset[str] | None = None
    """What the credential may be used for, as contexts (`catalog`) or commands (`catalog.register_dataset`), and `read`;
    None: for all that the actor may do."""
    tier: Tier = Tier.STANDARD
    session: str | None = None
    """The session whose token was shown, if it was one of ours."""
    groups: frozenset[str] = frozenset()
    """The groups the actor is in, itself or through a group within a group."""

    def in_scope(self, name: str) -> bool:
        """Whether the credential is good for a command, a context, or `read`."""
        return self.scopes is None or name in self.scopes or name.partition(".")[0] in self.scopes

    def roles_on(self, stream: str, domain: str | None, at: datetime) -> frozenset[Role]:
        """The roles held where this stream is, which belongs to that domain (None: to no domain)."""
        own = self.roles if self.domains is None or domain is None or domain in self.domains else frozenset[Role]()
        return own | {holding.role for holding in self.holdings if holding.reaches(stream, domain, at)} if self.holdings else own


SignatureCheck = Callable[[bytes, bytes, bytes], bool]
"""Whether a 32-byte public key signed a message with these 64 bytes; a pure function that the edge brings along."""


def never_signed(_public: bytes, _message: bytes, _signature: bytes) -> bool:
    """Where nobody can check a signature, none holds."""
    return False


@dataclass(frozen=True, slots=True)
class Asked:
    """The circumstances of a command, as `decide` may know them: nobody looks at a clock in there."""

    by: Asker
    at: datetime
    action_id: UUID
    past: Any = None
    """The state its stream had at the command's `past_version`; None when there was no such version."""
    others: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """The states of the streams that the command `relies_on`, by stream."""
    version: int = 0
    """The version of its stream that is decided on; what comes of it is written at the next."""
    ledger: str = ""
    """The ledger's name, for what is signed for it and no other."""
    signed: SignatureCheck = never_signed
    domains: frozenset[str] = frozenset()
    """The data domains that are concerned; `by` has the roles that it holds in all of them."""


S = TypeVar("S")
C = TypeVar("C", bound=Command)
E = TypeVar("E", bound=Event)


def _no_facts(_state: Any, _command: Any) -> JsonObject:
    return {}


def _no_domains(_state: Any, _command: Any) -> frozenset[str]:
    return frozenset()


def _nothing_more(_state: Any, _command: Any) -> tuple[str, ...]:
    return ()


def _no_snapshot(_state: Any) -> JsonObject | None:
    return None


def _no_more_facts(_state: Any, _past: Any) -> JsonObject:
    return {}


@dataclass(frozen=True)
class Decider(Generic[S, C, E]):
    """A context's rules in three pure functions: what follows from a command, what an event changes, what policies see.

    `entity(command)` names the stream's entity; `facts(state, command)` are the attributes policies may judge
    (JSON values that classify - a domain, a PII level, an amount - never free text, so equal cases decide alike).
    `domains(state, command)` are the data domains that the stream belongs to, and (unless the command is None) would belong to after
    it: whoever asks needs a role in each. None of them: it belongs to no domain.
    `relies_on(state, command)` are streams that the decision relies on besides those that the command itself names.
    `snapshot(state)` are the settings that a rollback restores, as JSON values; None when there is nothing to restore.
    `past_facts(state, past)` are what policies judge besides when a command brings back the settings of a past state.
    """

    context: str
    category: str
    initial: S
    evolve: Callable[[S, E], S]
    decide: Callable[[S, C, Asked], Sequence[E]]
    commands: tuple[type[C], ...]
    events: tuple[type[E], ...]
    entity: Callable[[C], str]
    facts: Callable[[S, C], JsonObject] = field(default=_no_facts)
    domains: Callable[[S, C | None], frozenset[str]] = field(default=_no_domains)
    relies_on: Callable[[S, C], tuple[str, ...]] = field(default=_nothing_more)
    snapshot: Callable[[S], JsonObject | None] = field(default=_no_snapshot)
    past_facts: Callable[[S, S], JsonObject] = field(default=_no_more_facts)
    tenant: str | None = None
    """Whose its streams are, when they are nobody's in particular: the keys are the ledger's own."""

    def stream(self, command: C) -> str:
        return f"{self.category}:{self.entity(command)}"

    def key(self, command: C, by: Asker) -> tuple[str, str]:
        """(tenant, stream)"""
        return (self.tenant or by.tenant, self.stream(command))

    def replay(self, events: typing.Iterable[E], state: S | None = None) -> S:
        """The state that a history leads to, from `state` or from nothing."""
        current = self.initial if state is None else state
        for event in events:
            current = self.evolve(current, event)
        return current


AnyDecider = Annotated[Decider[Any, Any, Any], "a decider whose state and messages are its own business"]
