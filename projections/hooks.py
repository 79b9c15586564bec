"""Hooks as people read them, and as each report is looked at: what it becomes, in whose name, and which secrets are good."""

from typing import Any

from domain.hooks import HookAdded, HookRemoved, HookSecretRotated
from domain.kernel import Recorded, timestamp
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class HookRow:
    """One hook; its secrets are nowhere to be read. The one before the last is good until `old_secret_until`."""

    hook_id: str
    label: str
    acts_as: str
    scheme: str
    command: str
    fields: dict[str, str]
    constants: dict[str, Any]
    only_when: dict[str, str]
    secrets: int
    secret_sha256: str
    old_secret_sha256: str | None
    old_secret_until: str | None
    status: str
    added_by: str
    added_at: str
    removed_at: str | None


hooks = ReadTable(
    "hooks", HookRow, filters=("status", "acts_as", "command"), sorts=("hook_id", "added_at"), search=("hook_id", "label", "command")
)


@hooks.on(HookAdded)
def added(_row: None, recorded: Recorded[HookAdded], hook_id: str) -> HookRow:
    event = recorded.event
    return HookRow(
        hook_id=hook_id,
        label=event.label,
        acts_as=event.acts_as,
        scheme=event.scheme,
        command=event.command,
        fields=dict(event.fields),
        constants=dict(event.constants),
        only_when=dict(event.only_when),
        secrets=1,
        secret_sha256=event.secret_sha256,
        old_secret_sha256=None,
        old_secret_until=None,
        status="active",
        added_by=recorded.actor,
        added_at=recorded.at_text,
        removed_at=None,
    )


@hooks.on(HookSecretRotated)
def rotated(row: HookRow, recorded: Recorded[HookSecretRotated], _hook_id: str) -> HookRow:
    event = recorded.event
    return replace(
        row,
        secrets=row.secrets + 1,
        secret_sha256=event.secret_sha256,
        old_secret_sha256=row.secret_sha256,
        old_secret_until=timestamp(event.old_until),
    )


@hooks.on(HookRemoved)
def removed(row: HookRow, recorded: Recorded[HookRemoved], _hook_id: str) -> HookRow:
    return replace(row, status="removed", removed_at=recorded.at_text)


PROJECTION = Projection("hooks", (hooks,), ordering="stream")
