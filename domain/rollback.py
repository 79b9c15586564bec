"""A rollback: an entity gets back the settings it had at an earlier version, by one event that undoes and erases nothing.

Settings are what people decided, never what happened: money that moved, data that was refreshed and deployments that
failed stay as they are.
"""

from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, Field

from domain.kernel import Asked, JsonObject, json_digest, require
from domain.values import MAX_SAFE_INTEGER, Sha256, Text

Version = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER, strict=True)]
"""A version of a stream: that of its first event is 1."""

MAX_SNAPSHOT_BYTES: Final = 44_000
"""What fits into one signed event (64 KiB in its envelope) together with what else a rollback says."""

BROKEN_MAX: Final = 20
"""Of what would break, so many are put on record: the event of a refusal has to hold them twice."""

TOLD_MAX: Final = 3
"""And so many of these are named in the sentence."""

S = TypeVar("S", bound=BaseModel)


class RollBack(BaseModel):
    """What every rollback asks: the settings of `to_version`, and what else breaks without what came after (`broken`).

    Whoever hands the command over looks that up in the other entities: no request body holds it. Where nothing breaks it is
    absent, so what is asked, and what an approval covers, is the entity and the version.
    """

    to_version: Version
    broken: Annotated[tuple[Text, ...], Field(min_length=1, max_length=BROKEN_MAX)] | None = None

    def past_version(self) -> int:
        return self.to_version


class RolledBack(BaseModel):
    """What the event of every rollback says beside the restored settings: whose they are, and their digest."""

    to_version: Version
    snapshot_sha256: Sha256


def settings_json(settings: BaseModel) -> JsonObject:
    """Settings as the JSON that is signed, digested and shown."""
    return settings.model_dump(mode="json", exclude_none=True)


def settings_digest(settings: BaseModel) -> str:
    """SHA-256, in hex, over the canonical JSON of settings."""
    return json_digest(settings_json(settings))


def require_version(asked: Asked, to_version: int) -> None:
    """Refuse a version that its stream never had."""
    require(
        asked.past is not None,
        "version_unknown",
        f"Its versions are 1 to {asked.version}; there is no version {to_version}.",
        field="to_version",
        latest_version=asked.version,
        remedy="Choose one of `aureus history`.",
    )


def restorable(command: RollBack, held: BaseModel, past: S) -> S:
    """The earlier settings, when they can take the place of those held now."""
    require(
        settings_json(past) != settings_json(held),
        "nothing_to_roll_back",
        f"Its settings are those of version {command.to_version} already.",
        field="to_version",
        remedy="Nothing is left to do; `aureus history` shows which versions differ.",
    )
    broken = list(command.broken or ())
    more = f", and {len(broken) - TOLD_MAX} more" if len(broken) > TOLD_MAX else ""
    require(
        not broken,
        "rollback_breaks_dependents",
        f"Others rely on what version {command.to_version} did not have: {'; '.join(broken[:TOLD_MAX])}{more}.",
        field="to_version",
        broken=broken,
        remedy="Change those first, or choose a later version.",
    )
    size_bytes = len(past.model_dump_json(exclude_none=True).encode())
    require(
        size_bytes <= MAX_SNAPSHOT_BYTES,
        "snapshot_too_large",
        f"The settings of version {command.to_version} are {size_bytes} bytes of JSON; one signed event holds {MAX_SNAPSHOT_BYTES}.",
        field="to_version",
        size_bytes=size_bytes,
        remedy="Bring them back part by part, with the commands that changed them.",
    )
    return past
