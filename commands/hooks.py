"""What may be asked of hooks: an administrator says what reports of another system become, and in whose name."""

from datetime import timedelta
from typing import Final, assert_never

from domain.access import OWN_ACTORS, registered, require_staying
from domain.hooks import (
    CommandName,
    Constants,
    Fields,
    Hook,
    HookAdded,
    HookEvent,
    HookRemoved,
    HookSecretRotated,
    Only,
    Scheme,
    ServiceId,
    evolve,
)
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.values import Duration, Identifier, Label, Role, Sha256, duration_seconds

ADMINS: Final = frozenset({Role.ADMIN})
OVERLAP_MAX: Final = timedelta(days=30)


class AddHook(Command, name="hooks.add_hook", roles=ADMINS):
    """Have the signed reports of another system become a command, which the service asks for; nothing it may not ask for itself."""

    hook_id: Identifier
    label: Label
    acts_as: ServiceId
    scheme: Scheme = "standard"
    command: CommandName
    fields: Fields
    constants: Constants = {}
    only_when: Only = {}
    secret_sha256: Sha256

    def relies_on(self) -> tuple[str, ...]:
        return (f"actor:{self.acts_as}",)


class RotateHookSecret(Command, name="hooks.rotate_hook_secret", roles=ADMINS):
    """Have reports signed with another secret; the one before stays good for the overlap, a day if it is not said."""

    hook_id: Identifier
    secret_sha256: Sha256
    overlap: Duration = "P1D"


class RemoveHook(Command, name="hooks.remove_hook", roles=ADMINS):
    """Take nothing there any more; its secrets are destroyed."""

    hook_id: Identifier


HookCommand = AddHook | RotateHookSecret | RemoveHook


def decide(hook: Hook, command: HookCommand, asked: Asked) -> list[HookEvent]:
    match command:
        case AddHook():
            return _add(hook, command, asked)
        case RotateHookSecret():
            _require_there(hook, command.hook_id)
            overlap = timedelta(seconds=duration_seconds(command.overlap))
            require(
                overlap <= OVERLAP_MAX,
                "overlap_too_long",
                f"Two secrets are good beside each other for at most {OVERLAP_MAX.days} days.",
                field="overlap",
                remedy="Give the other system the new secret sooner.",
            )
            if command.secret_sha256 == hook.secret_sha256:
                return []
            return [HookSecretRotated(hook_id=command.hook_id, secret_sha256=command.secret_sha256, old_until=asked.at + overlap)]
        case RemoveHook():
            require(
                hook.added is not None,
                "hook_not_found",
                f"There is no hook {command.hook_id}.",
                field="hook_id",
                remedy="List them to see what is there.",
            )
            return [] if hook.removed else [HookRemoved(hook_id=command.hook_id)]
        case _:
            assert_never(command)


def _add(hook: Hook, command: AddHook, asked: Asked) -> list[HookEvent]:
    require(
        hook.added is None,
        "hook_exists",
        f"Hook {command.hook_id} was added before.",
        field="hook_id",
        remedy="Choose another id: one that was removed does not come back, and neither does its secret.",
    )
    require(
        command.acts_as not in OWN_ACTORS,
        "actor_id_reserved",
        f"{command.acts_as} is Aureus itself: nobody else acts in its name.",
        field="acts_as",
        remedy="Register a service for this hook.",
    )
    require_staying(registered(asked.others[f"actor:{command.acts_as}"], command.acts_as))
    twice = sorted(command.fields.keys() & command.constants.keys())
    require(
        not twice,
        "field_said_twice",
        f"{', '.join(twice)}: both in the report and the same in each.",
        field="constants",
        remedy="Leave one of them out.",
    )
    return [HookAdded(**command.model_dump())]


def _require_there(hook: Hook, hook_id: str) -> None:
    require(
        hook.added is not None and not hook.removed,
        "hook_not_found",
        f"There is no hook {hook_id}.",
        field="hook_id",
        remedy="List them to see what is there.",
    )


def _facts(_hook: Hook, command: HookCommand) -> JsonObject:
    return {"becomes": command.command if isinstance(command, AddHook) else None}


DECIDER: Final[Decider[Hook, HookCommand, HookEvent]] = Decider(
    context="hooks",
    category="hook",
    initial=Hook(),
    evolve=evolve,
    decide=decide,
    commands=(AddHook, RotateHookSecret, RemoveHook),
    events=(HookAdded, HookSecretRotated, HookRemoved),
    entity=lambda command: command.hook_id,
    facts=_facts,
)
