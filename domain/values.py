"""The measures and identities that governance facts are made of: money, roles, personal data, opaque ids."""

import os
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer every JSON reader agrees on (RFC 8785, I-JSON)."""

_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._@+=~-]*$"

Identifier = Annotated[str, StringConstraints(pattern=_ID_PATTERN, max_length=200)]
"""An opaque id: ASCII, no colon (the colon parts a stream's category from its entity)."""

StreamName = Annotated[str, StringConstraints(min_length=1, max_length=300)]
"""A stream: a category, a colon and an entity's id."""

Text = Annotated[str, StringConstraints(max_length=4_000, strip_whitespace=True)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
Minor = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]
"""An amount of money in the currency's minor unit (cents); never a float."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]

_DURATION: Final = re.compile(r"^P(?=\d|T\d)(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?$")


def _iso_duration(text: str) -> str:
    if not _DURATION.match(text) or text.endswith("T"):
        raise ValueError("an ISO 8601 duration of days, hours, minutes, seconds, such as PT24H or P1DT12H")
    return text


Duration = Annotated[str, AfterValidator(_iso_duration)]


def duration_seconds(duration: str) -> int:
    """Seconds in an ISO 8601 duration of days, hours, minutes and seconds (`P1DT12H` -> 129600)."""
    units = {"D": 86_400, "H": 3_600, "M": 60, "S": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([DHMS])", duration))


class Role(StrEnum):
    """What an actor may be trusted with; an actor can hold several."""

    VIEWER = "viewer"
    ANALYST = "analyst"
    APPROVER = "approver"
    ADMIN = "admin"
    AUDITOR = "auditor"
    AGENT = "agent"


EVERYBODY: Final = frozenset(Role)
PEOPLE: Final = frozenset(Role) - {Role.AGENT}


class ActorKind(StrEnum):
    """What acts: a person, an AI agent, or a service of the platform."""

    PERSON = "person"
    AGENT = "agent"
    SERVICE = "service"


class Tier(StrEnum):
    """How much an actor may ask within an hour: the limits of each tier are the operator's."""

    STANDARD = "standard"
    PREMIUM = "premium"


class Money(BaseModel):
    """An amount in integer minor units of one currency (`{"minor": 1050, "currency": "EUR"}` is 10.50 EUR)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minor: Minor
    currency: Currency

    def __str__(self) -> str:
        return f"{self.minor // 100}.{self.minor % 100:02d} {self.currency}"


@dataclass(frozen=True, slots=True)
class Personal:
    """Marks a field as personal data: only a salted digest of it is signed; the value itself stays erasable.

    `subject` names the field of the same event that holds the data subject's opaque id. `mask` is how the value is shown to
    those who may not see it: its outline (A** L*******), or a keyed hash that only tells equal from different.
    """

    subject: str
    purpose: str = "governance"
    mask: Literal["partial", "hash"] = "partial"


def uuid7() -> UUID:
    """A time-ordered UUID (RFC 9562, version 7): new ids land at one end of an index."""
    return UUID(uuid7_text())


def uuid7_text() -> str:
    """`uuid7` as text, without the object."""
    milliseconds, random = f"{time.time_ns() // 1_000_000:012x}", os.urandom(10).hex()
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{random[:3]}-{'89ab'[int(random[3], 16) & 3]}{random[4:7]}-{random[7:19]}"
