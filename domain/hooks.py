"""A hook: an address where another system reports what it did, signed; each report becomes one command of a service of ours.

What the command's fields are is said in JSON pointers into the report, and in constants: no templates, and no code. The secret is
known to the other system and to a table beside the ledger; here stands only its digest.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Final, Literal, assert_never

from pydantic import Field, StringConstraints

from domain.kernel import Event
from domain.values import Identifier, Label, Sha256

ServiceId = Annotated[str, StringConstraints(pattern=r"^svc-[a-z0-9][a-z0-9-]*$", max_length=64)]
Scheme = Literal["standard", "github"]
"""How reports are signed: by the Standard Webhooks specification, or as GitHub does (`X-Hub-Signature-256`)."""
CommandName = Annotated[str, StringConstraints(pattern=r"^[a-z_]+\.[a-z_]+$", max_length=100)]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
Pointer = Annotated[str, StringConstraints(pattern=r"^(/([^~/]|~0|~1)*)+$", max_length=500)]
"""Where in a report a value stands (RFC 6901), such as /data/jobId."""
FIELDS_MAX: Final = 50

Fields = Annotated[dict[FieldName, Pointer], Field(max_length=FIELDS_MAX)]
Constants = Annotated[dict[FieldName, str | int | bool], Field(max_length=FIELDS_MAX)]
Only = Annotated[dict[Pointer, str], Field(max_length=10)]


class HookAdded(Event, name="hooks.hook_added"):
    """Reports signed with the secret become this command from now on, asked for by the service.

    `fields` says where in the report the command's fields stand, `constants` are the same in each; a report in which one of `only_when`
    has another value becomes nothing.
    """

    hook_id: Identifier
    label: Label
    acts_as: ServiceId
    scheme: Scheme
    command: CommandName
    fields: Fields
    constants: Constants = {}
    only_when: Only = {}
    secret_sha256: Sha256


class HookSecretRotated(Event, name="hooks.hook_secret_rotated"):
    """Reports are signed with another secret from now on; the one before is good until then."""

    hook_id: Identifier
    secret_sha256: Sha256
    old_until: datetime


class HookRemoved(Event, name="hooks.hook_removed"):
    """Nothing is taken there any more."""

    hook_id: Identifier


HookEvent = HookAdded | HookSecretRotated | HookRemoved


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook; `added` is None before it was."""

    added: HookAdded | None = None
    secret_sha256: str | None = None
    removed: bool = False


def evolve(hook: Hook, event: HookEvent) -> Hook:
    match event:
        case HookAdded():
            return Hook(event, event.secret_sha256)
        case HookSecretRotated():
            return replace(hook, secret_sha256=event.secret_sha256)
        case HookRemoved():
            return replace(hook, removed=True)
        case _:
            assert_never(event)
