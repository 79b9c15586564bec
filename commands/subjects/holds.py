"""When the answer to a hold or a retention rule is yes."""

from __future__ import annotations

from typing import assert_never

from commands.subjects.intents import HoldCommand, LiftRetentionRule, PlaceHold, ReleaseHold, RetentionCommand, SetRetentionRule
from domain.kernel import Asked, require
from domain.subjects import (
    HoldEvent,
    HoldPlaced,
    HoldReleased,
    Holds,
    Retention,
    RetentionEvent,
    RetentionRuleLifted,
    RetentionRuleSet,
    Subject,
)
from domain.values import ActorKind, duration_seconds


def decide_holds(holds: Holds, command: HoldCommand, asked: Asked) -> list[HoldEvent]:
    require(
        asked.by.kind is ActorKind.PERSON,
        "hold_needs_person",
        "A hold is a person's word: no agent and no service places or releases one.",
        remedy="Have somebody do it who answers for the matter.",
    )
    match command:
        case PlaceHold():
            return [_placed(holds, command, asked)]
        case ReleaseHold():
            require(
                command.hold_id in holds.placed,
                "hold_not_found",
                f"No hold {command.hold_id} is in force.",
                field="hold_id",
                remedy="`aureus holds list` shows those that are.",
            )
            return [HoldReleased(**command.model_dump())]
        case _:
            assert_never(command)


def _placed(holds: Holds, command: PlaceHold, asked: Asked) -> HoldPlaced:
    require(
        command.hold_id not in holds.used,
        "hold_exists",
        f"There is, or was, a hold {command.hold_id} already.",
        field="hold_id",
        remedy="Choose another id.",
    )
    require(
        command.everybody != bool(command.subject_ids),
        "hold_on_nobody",
        "A hold is on some subjects, or on everybody.",
        field="subject_ids",
        remedy="Name the subjects, or say `everybody`.",
    )
    require(
        command.until is None or command.until > asked.at,
        "hold_over_already",
        "The hold would be over before it is placed.",
        field="until",
        now=asked.at.isoformat(),
        remedy="Name a time to come, or leave it out.",
    )
    for subject_id in command.subject_ids:
        _require_something_left(subject_id, asked.others[f"subject:{subject_id}"])
    return HoldPlaced(**command.model_dump())


def _require_something_left(subject_id: str, subject: Subject) -> None:
    """A hold that came too late must not look as if it kept something."""
    begun = subject.order is not None and subject.order.begun
    require(
        not begun and not subject.erased_whole,
        "nothing_left_to_hold",
        f"{subject_id} {'is being' if begun else 'was'} erased: a hold comes too late.",
        field="subject_ids",
        subject_id=subject_id,
        remedy="Leave them out; the certificate says what was destroyed, and when.",
    )


def decide_retention(retention: Retention, command: RetentionCommand, _asked: Asked) -> list[RetentionEvent]:
    match command:
        case SetRetentionRule():
            require(
                duration_seconds(command.keep) > 0,
                "duration_is_zero",
                "Values would be erased as they are recorded.",
                field="keep",
                remedy="Say how long they are kept, such as P3650D; what is not to be kept at all is not recorded.",
            )
            return [] if retention.keep.get(command.purpose) == command.keep else [RetentionRuleSet(**command.model_dump())]
        case LiftRetentionRule():
            require(
                command.purpose in retention.keep,
                "retention_rule_not_found",
                f"No rule says how long values kept for {command.purpose} stay in {command.jurisdiction.value}.",
                field="purpose",
                remedy="`aureus retention list` shows the rules.",
            )
            return [RetentionRuleLifted(**command.model_dump())]
        case _:
            assert_never(command)
