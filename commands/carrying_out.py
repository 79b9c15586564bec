"""What Aureus may carry out on somebody's behalf when it is approved: the very command, whole, of somebody who need not sign it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from commands.approvals import CarryOutRequest, RequestApproval
from commands.sight import Ask, Sight
from domain.approvals import Approval
from domain.kernel import JsonObject, command_digest, require


def require_possible(ask: Ask, sight: Sight, *, signs: bool, parks: bool) -> None:
    """Refuses what is wanted and will not be possible. `signs`: the asker has a key of their own; `parks`: this command waits."""
    command = ask.command
    wanted: tuple[str, JsonObject] | None = None
    if parks and ask.carry_out:
        _require_whole(any(getattr(command, name) is not None for name in command.personal), command.command_name)
        wanted = command.command_name, command.intent()
    elif isinstance(command, RequestApproval) and command.carry_out:
        require(
            command.command is not None,
            "nothing_to_carry_out",
            "What is known by its digest alone cannot be carried out.",
            field="carry_out",
            remedy="Give `command` and `inputs`, or leave `carry_out` out.",
        )
        wanted = command.command or "", command.inputs
    elif isinstance(command, CarryOutRequest):
        wanted = _requested(sight.seen.state)
    if wanted is not None:
        _require_unsigned(signs)
        _require_exact(*wanted, sight, parks=parks)


def _requested(approval: Approval) -> tuple[str, JsonObject] | None:
    request = approval.request
    if request is None or request.command is None:
        return None
    return request.command, request.inputs or {}


def _require_unsigned(signs: bool) -> None:
    require(
        not signs,
        "carry_out_needs_signature",
        "Whoever has a key of their own signs what they ask, and nobody can sign it for them later.",
        field="Aureus-When-Approved",
        remedy="Leave it out, and send the command again, signed, once it is approved.",
    )


def _require_whole(personal: bool, command: str) -> None:
    require(
        not personal,
        "carry_out_needs_inputs",
        f"{command} holds personal data, which no approval keeps: it could not be carried out as it was asked.",
        field="Aureus-When-Approved",
        remedy="Leave it out, and send the command again once it is approved.",
    )


def _require_exact(name: str, inputs: JsonObject, sight: Sight, *, parks: bool) -> None:
    """The command made of what the approval keeps must be the one that is consented to, to the byte."""
    known = sight.commands.get(name)
    if not parks:
        _require_whole(known is not None and bool(known.personal), name)
    rebuilt: Any = None
    if known is not None:
        try:
            rebuilt = known.model_validate(inputs)
        except ValidationError:
            rebuilt = None
    require(
        rebuilt is not None and rebuilt.digest() == command_digest(name, inputs),
        "carry_out_not_exact",
        f"{name} with these inputs is not the command that would be carried out: some are missing, or written otherwise.",
        field="inputs",
        command=name,
        remedy="Give the inputs as `Aureus-Prepare` shows them, or leave it out.",
    )
