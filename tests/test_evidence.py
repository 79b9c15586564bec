"""Evidence: what is refused, what the audit log and the packs say, and how a pack reads."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from api.evidence import markdown
from commands.evidence import ARTIFACTS, PACKS, RegisterArtifact, SealPack
from domain.actions import ActionAllowed, ActionBlocked, ActionEvent, ActionParked, Intent, Output, PolicyResult, Snapshot
from domain.evidence import ArtifactRegistered, PackSealed
from domain.kernel import Event, JsonObject, Recorded
from domain.values import ActorKind, Role
from projections.engine import replay
from projections.evidence import PROJECTION, ActionRow, ArtifactRow, EvidencePackRow, SealedPackRow, pack_of
from tests.given import ACTION_ID, AT, given

HASH = "ab" * 32
LEAF = bytes(range(32))
TESTS = RegisterArtifact(
    sha256=HASH, size_bytes=120, media_type="application/json", name="dbt tests", kind="test_result", passed=3, failed=1
)
REGISTERED = ArtifactRegistered(
    sha256=HASH, size_bytes=120, media_type="application/json", name="dbt tests", kind="test_result", passed=3, failed=1
)


def test_an_artifact_is_registered_under_its_hash() -> None:
    given(ARTIFACTS).when(TESTS).then(REGISTERED)
    assert ARTIFACTS.stream(TESTS) == f"artifact:{HASH}"


def test_registering_the_same_again_changes_nothing() -> None:
    given(ARTIFACTS, REGISTERED).when(TESTS).then()
    given(ARTIFACTS, REGISTERED).when(TESTS.model_copy(update={"name": "another name for it"})).then()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "file", "passed": None, "failed": None}, "kind"),
        ({"media_type": "text/plain"}, "media_type"),
        ({"failed": 0}, "passed"),
    ],
)
def test_an_artifact_does_not_change_its_meaning(change: dict[str, Any], field: str) -> None:
    given(ARTIFACTS, REGISTERED).when(TESTS.model_copy(update=change)).refused("artifact_known_differently", field=field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"passed": None}, "passed"),
        ({"failed": None}, "failed"),
        ({"passed": None, "failed": None}, "passed"),
        ({"kind": "file"}, "failed"),
        ({"kind": "file", "passed": None}, "passed"),
    ],
)
def test_a_test_result_and_nothing_else_counts_checks(change: dict[str, Any], field: str) -> None:
    given(ARTIFACTS).when(TESTS.model_copy(update=change)).refused("test_counts_misplaced", field=field)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "AB" * 32},
        {"sha256": "../etc/passwd"},
        {"size_bytes": -1},
        {"size_bytes": 1.5},
        {"media_type": "text/html\r\nX-Injected: 1"},
        {"kind": "rumour"},
        {"name": ""},
    ],
)
def test_what_an_artifact_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        RegisterArtifact.model_validate({**TESTS.model_dump(), **change})


SEAL = SealPack(
    action_id=str(ACTION_ID), position=7, json_sha256="cd" * 32, json_bytes=1_318, markdown_sha256="ef" * 32, markdown_bytes=1_874
)
SEALED = PackSealed(**SEAL.model_dump())


def test_a_pack_is_sealed_on_a_stream_of_its_action() -> None:
    given(PACKS).when(SEAL).then(SEALED)
    assert PACKS.stream(SEAL) == f"pack:{ACTION_ID}"


def test_sealing_the_same_again_changes_nothing() -> None:
    given(PACKS, SEALED).when(SEAL).then()


@pytest.mark.parametrize("change", [{"json_sha256": HASH}, {"markdown_sha256": HASH}, {"position": 8}])
def test_what_was_sealed_stands(change: dict[str, Any]) -> None:
    given(PACKS, SEALED).when(SEAL.model_copy(update=change)).refused(
        "pack_sealed_differently", field="action_id", sealed=SEALED.model_dump()
    )


# The read models

INTENT = Intent(
    command="budgets.open_budget",
    digest="cd" * 32,
    stream="budget:lake",
    seen_version=0,
    roles=(Role.ADMIN, Role.APPROVER),
    kind=ActorKind.PERSON,
    inputs={"budget_id": "lake", "limit_minor": 100},
    reason="The lake needs money",
)
POLICY = PolicyResult(policy="high_risk", outcome="allow")
ALLOWED = ActionAllowed(
    intent=INTENT,
    policy_version="p1",
    policy_results=(POLICY,),
    outputs=(Output(type="budgets.budget_opened", stream="budget:lake", version=1),),
    artifacts=(HASH,),
    approval_id="a1",
    guard=(("IDLE", 0), ("COMPLETE", 9)),
    snapshot=Snapshot(stream="budget:lake", version=1, sha256=HASH),
)
BLOCKED = ActionBlocked(intent=INTENT, policy_version="p1", code="budget_exists", message="It is open.", facts={"field": "budget_id"})
PARKED = ActionParked(
    intent=INTENT, policy_version="p1", approval_id="a1", approver_roles=(Role.APPROVER,), quorum=2, required_evidence=("sql",)
)


def record(event: Event, stream: str = f"action:{ACTION_ID}", position: int = 7) -> Recorded[Event]:
    return Recorded(
        position=position,
        tenant="acme",
        stream=stream,
        version=1,
        id=UUID(int=position),
        at=AT + timedelta(seconds=position),
        actor="usr-adm",
        correlation=ACTION_ID,
        causation=None,
        event=event,
        leaf=LEAF,
    )


def read(event: Event) -> tuple[ActionRow, EvidencePackRow]:
    action = replay(PROJECTION, [record(event)])["actions", "acme", str(ACTION_ID)]
    return action, pack_of(asdict(action))


def test_the_audit_entry_says_who_did_what_when_why_and_how_it_ended() -> None:
    action, _ = read(ALLOWED)
    assert action == ActionRow(
        id=str(ACTION_ID),
        timestamp="2026-03-03T14:00:07.000000Z",
        actor={"userId": "usr-adm", "role": "admin, approver", "roles": ["admin", "approver"], "kind": "person"},
        action="budgets.open_budget",
        intent={"budget_id": "lake", "limit_minor": 100},
        policyResults=[{"policy": "high_risk", "outcome": "allow", "reason": ""}],
        outcome="allowed",
        evidenceRef=f"/v1/evidence/{ACTION_ID}",
        actor_id="usr-adm",
        reason="The lake needs money",
        stream="budget:lake",
        seen_version=0,
        outputs=[{"type": "budgets.budget_opened", "stream": "budget:lake", "version": 1}],
        code=None,
        message=None,
        facts=None,
        approval_id="a1",
        policy_version="p1",
        action_digest="cd" * 32,
        correlation=str(ACTION_ID),
        causation=None,
        guard=[{"state": "IDLE", "after_us": 0}, {"state": "COMPLETE", "after_us": 9}],
        snapshot={"stream": "budget:lake", "version": 1, "sha256": HASH},
        artifacts=[HASH],
        signature={"event_id": str(UUID(int=7)), "stream": f"action:{ACTION_ID}", "version": 1, "position": 7, "leaf": LEAF.hex()},
        position=7,
    )


def test_a_blocked_attempt_is_on_record_with_its_reason() -> None:
    action, pack = read(BLOCKED)
    assert (action.outcome, action.code, action.message, action.facts) == (
        "blocked",
        "budget_exists",
        "It is open.",
        {"field": "budget_id"},
    )
    assert (action.outputs, action.approval_id) == ([], None)
    assert (pack.outcome, pack.code, pack.outputs) == ("blocked", "budget_exists", [])


def test_a_parked_action_names_what_it_waits_for() -> None:
    action, pack = read(PARKED)
    assert (action.outcome, action.approval_id) == ("requires_approval", "a1")
    assert pack.facts == {"approver_roles": ["approver"], "quorum": 2, "required_evidence": ["sql"]}


def test_a_pack_says_where_in_the_tree_it_is_sealed() -> None:
    _, pack = read(ALLOWED)
    assert pack.signature == {
        "event_id": str(UUID(int=7)),
        "stream": f"action:{ACTION_ID}",
        "version": 1,
        "position": 7,
        "leaf": LEAF.hex(),
    }
    assert (pack.inputs, pack.artifacts, pack.action_digest) == (INTENT.inputs, [HASH], "cd" * 32)


@pytest.mark.parametrize("event", [ALLOWED, BLOCKED, PARKED])
def test_every_outcome_has_an_entry_and_a_pack(event: ActionEvent) -> None:
    action, pack = read(event)
    assert (action.id, action.outcome, action.evidenceRef) == (pack.id, pack.outcome, f"/v1/evidence/{pack.id}")


def test_an_artifact_is_read_by_its_hash() -> None:
    row = replay(PROJECTION, [record(REGISTERED, f"artifact:{HASH}")])["artifacts", "acme", HASH]
    assert row == ArtifactRow(HASH, "dbt tests", "test_result", "application/json", 120, 3, 1, "usr-adm", "2026-03-03T14:00:07.000000Z")


def test_a_sealed_pack_is_read_by_its_action() -> None:
    row = replay(PROJECTION, [record(SEALED, f"pack:{ACTION_ID}", position=9)])["packs", "acme", str(ACTION_ID)]
    assert row == SealedPackRow(str(ACTION_ID), 7, "cd" * 32, 1_318, "ef" * 32, 1_874, "usr-adm", "2026-03-03T14:00:09.000000Z")


def test_every_event_of_the_context_and_of_actions_is_read() -> None:
    assert set(PROJECTION.folds) == {*ARTIFACTS.events, *PACKS.events, ActionAllowed, ActionBlocked, ActionParked}


# A pack as a document


def joined_pack(event: Event, **joined: Any) -> JsonObject:
    _, pack = read(event)
    return {**asdict(pack), "tests": [], "files": [], "approval": None, **joined}


APPROVAL = {
    "approval_id": "a1",
    "status": "used",
    "quorum": 1,
    "agreed_count": 1,
    "decisions": [
        {"at": "2026-03-03T13:00:00.000000Z", "approver": "usr-app", "roles": ["approver"], "decision": "agreed", "comment": "Fine"}
    ],
}
TEST_FILE = {"sha256": HASH, "name": "dbt tests", "kind": "test_result", "size_bytes": 120, "passed": 3, "failed": 1}


def test_an_allowed_action_reads_from_intent_to_proof() -> None:
    document = markdown(joined_pack(ALLOWED, tests=[TEST_FILE], files=[TEST_FILE], approval=APPROVAL))
    assert document.startswith(f"# Evidence of action {ACTION_ID}\n\n`budgets.open_budget` on `budget:lake` was **allowed**.\n")
    for line in (
        "| Who | usr-adm (person; admin, approver) |",
        "| Why | The lake needs money |",
        "| limit_minor | 100 |",
        "| high_risk | allow |  |",
        "| budgets.budget_opened | budget:lake | 1 |",
        "a1: used; 1 of 1 agreed.",
        "| 2026-03-03T13:00:00.000000Z | usr-app | approver | agreed | Fine |",
        f"| dbt tests | 3 | 1 | {HASH} |",
        f"| {HASH} | dbt tests | test_result | 120 |",
        f"    {LEAF.hex()}",
    ):
        assert line in document.splitlines()
    assert "GET /v1/ledger/entries?after=6&limit=1" in document


def test_a_blocked_action_reads_with_its_reason_and_the_facts() -> None:
    document = markdown(joined_pack(BLOCKED))
    assert "| Refused because | It is open. (budget_exists) |" in document
    assert "| Fact: field | budget_id |" in document
    assert "Nothing changed." in document


def test_a_parked_action_reads_as_parked() -> None:
    assert "was **parked** until it is approved." in markdown(joined_pack(PARKED))


def test_an_artifact_that_is_not_registered_here_is_named_all_the_same() -> None:
    assert f"| {HASH} | (not registered here) |  |  |" in markdown(joined_pack(ALLOWED))


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("a | b", r"a \| b"),
        ("yes\n\n## Policy results\n\nall allowed", r"yes \#\# Policy results all allowed"),
        ("[see](https://example.org)", r"\[see\](https\://example.org)"),
        ("<script>", r"\<script\>"),
        ("**bold** _it_ snake_case `code`", r"\*\*bold\*\* \_it\_ snake_case \`code\`"),
    ],
)
def test_what_somebody_typed_cannot_pose_as_the_document(typed: str, shown: str) -> None:
    intent = INTENT.model_copy(update={"reason": typed})
    assert f"| Why | {shown} |" in markdown(joined_pack(ALLOWED.model_copy(update={"intent": intent}))).splitlines()
