"""What a provider wants is asked for by Aureus itself, through the one command path, with who told it to on record."""

from __future__ import annotations

from typing import Final

from api.asking import stopwatch
from api.errors import ApiError, refusal_status
from api.services import Services, now
from commands.path import Ask
from domain.access import PROVISIONING
from domain.kernel import Asker, Command, JsonObject
from domain.values import ActorKind, Role, uuid7
from infra.logs import errand

BAD_VALUES: Final = frozenset({"group_ring", "groups_too_deep", "too_many_members"})


async def ask(services: Services, told_by: Asker, command: Command, *, key: str | None = None) -> None:
    """Returns when it is done, and can be read. Raises ApiError when it was refused, or has to wait for an approval."""
    provisioning = Asker(PROVISIONING, told_by.tenant, frozenset({Role.ADMIN}), ActorKind.SERVICE)
    reason = f"SCIM, told by {told_by.actor}."
    asked = Ask(
        command, provisioning, uuid7(), now(), correlation=errand().correlation, idempotency_key=key, reason=reason, elapsed_us=stopwatch()
    )
    outcome = await services.path.handle(asked)
    if outcome.approval is not None:
        waits = f"A policy wants {outcome.approval['approval_id']} approved first; then ask again."
        raise ApiError(403, "approval_required", waits)
    if outcome.outcome != "allowed":
        code = outcome.code or "refused"
        status = refusal_status(code, denied=outcome.denied)
        # What is wrong with the request itself is 400 in SCIM; 404 would say that the resource is not there.
        bad_value = {"scim_type": "invalidValue"} if code in BAD_VALUES or status in (404, 422) else {}
        raise ApiError(400 if bad_value else status, code, outcome.message or code, **bad_value)
    await services.wait_for(outcome.position)


def row_of(rows: dict[str, JsonObject], row_id: str) -> JsonObject:
    return rows.get(row_id, {})
