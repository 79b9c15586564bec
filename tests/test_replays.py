"""Replays decide: what may be folded, who says what came of it, that a password is shown once, and which queries are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from commands.replays import (
    OVERSEERS,
    QUERIES,
    REPLAYS,
    DropReplay,
    FailReplay,
    FinishReplay,
    HandOutLogin,
    RecordQuery,
    RequestReplay,
    RetireAuditQuery,
    SaveAuditQuery,
)
from domain.contexts import CONTEXTS
from domain.kernel import Asker, Refused
from domain.replays import (
    BUILDER,
    AuditQueryRetired,
    AuditQuerySaved,
    LoginHandedOut,
    Parameter,
    QueryRun,
    Replay,
    ReplayBuilt,
    ReplayDropped,
    ReplayFailed,
    ReplayRequested,
    SavedQuery,
    TableBuilt,
)
from domain.saved_queries import BUILT_IN
from domain.values import ActorKind, Role
from tests.given import ADMIN, given

ITSELF = Asker(BUILDER, "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)
SHA = "a" * 64
FINISH: dict[str, Any] = {
    "replay_id": "june",
    "position": 9,
    "schema_prefix": "june",
    "role": "aureus_replay_june_0",
    "events": 9,
    "tables": (TableBuilt(context="budgets", table="budgets", rows=1, digest=SHA),),
}
REQUESTED = ReplayRequested(replay_id="june", position=9, contexts=("catalog", "budgets"))
BUILT = ReplayBuilt(**FINISH)
FAILED = ReplayFailed(replay_id="june", code="x", reason="x")
DROPPED = ReplayDropped(replay_id="june")
HANDED = LoginHandedOut(replay_id="june", role="aureus_replay_june_0", handed_to=ADMIN.actor)
RUN = RecordQuery(replay_id="june", run_by="usr-ana", sql_sha256=SHA, rows=3)


def request(**fields: Any) -> RequestReplay:
    return RequestReplay(**{"replay_id": "june", "position": 9, **fields})


# -- replays


def test_a_replay_is_requested_of_some_contexts_in_their_own_order_or_of_all() -> None:
    given(REPLAYS).by(ADMIN).when(request(contexts=("budgets", "catalog", "budgets"))).then(REQUESTED)
    given(REPLAYS).by(ADMIN).when(request()).then(ReplayRequested(replay_id="june", position=9, contexts=CONTEXTS))


@pytest.mark.parametrize("contexts", [(), ("catalog", "nowhere")])
def test_a_replay_is_of_contexts_there_are(contexts: tuple[str, ...]) -> None:
    given(REPLAYS).when(request(contexts=contexts)).refused("context_not_found", field="contexts", known=list(CONTEXTS))


@pytest.mark.parametrize("replay_id", ["read", "read_x", "build", "replay_june", "pg", "information", "aureus"])
def test_no_replay_takes_the_names_of_schemas_that_are_anothers(replay_id: str) -> None:
    given(REPLAYS).when(request(replay_id=replay_id)).refused("replay_id_reserved", field="replay_id")


@pytest.mark.parametrize("replay_id", ["June", "2026", "ju-ne", "ju ne", 'ju"ne', "", "x" * 21, "é"])
def test_an_id_needs_no_quotes_in_sql(replay_id: str) -> None:
    with pytest.raises(ValueError, match="replay_id"):
        request(replay_id=replay_id)


def test_an_id_is_taken_until_its_replay_failed_or_was_dropped() -> None:
    given(REPLAYS, REQUESTED).when(request()).refused("replay_exists", field="replay_id", status="requested")
    given(REPLAYS, REQUESTED, BUILT).when(request()).refused("replay_exists", status="built")
    for end in (FAILED, DROPPED):
        given(REPLAYS, REQUESTED, end).when(request(contexts=("catalog", "budgets"))).then(REQUESTED)


def test_aureus_says_what_it_built_and_what_it_was_asked() -> None:
    given(REPLAYS, REQUESTED).by(ITSELF).when(FinishReplay(**FINISH)).then(BUILT)
    given(REPLAYS, REQUESTED).by(ITSELF).when(FailReplay(replay_id="june", code="x", reason="x")).then(FAILED)
    given(REPLAYS, REQUESTED, BUILT).by(ITSELF).when(RUN).then(QueryRun(**RUN.model_dump()))


@pytest.mark.parametrize("command", [FinishReplay(**FINISH), FailReplay(replay_id="june", code="x", reason="x"), RUN])
def test_nobody_else_says_so(command: Any) -> None:
    given(REPLAYS, REQUESTED, BUILT).by(ADMIN).when(command).refused("only_aureus_itself")


def test_only_what_was_requested_is_built_and_only_what_is_built_is_asked() -> None:
    for command in (FinishReplay(**FINISH), FailReplay(replay_id="june", code="x", reason="x")):
        given(REPLAYS).by(ITSELF).when(command).refused("replay_not_found", field="replay_id")
        given(REPLAYS, REQUESTED, DROPPED).by(ITSELF).when(command).refused("replay_dropped", field="replay_id")
    given(REPLAYS, REQUESTED).by(ITSELF).when(RUN).refused("replay_not_built", status="requested")
    given(REPLAYS, REQUESTED, BUILT, DROPPED).when(HandOutLogin(replay_id="june")).refused("replay_not_built", status="dropped")


def test_a_password_is_shown_once_for_each_time_that_the_replay_was_built() -> None:
    hand_out = HandOutLogin(replay_id="june")
    given(REPLAYS, REQUESTED, BUILT).by(ADMIN).when(hand_out).then(HANDED)
    given(REPLAYS, REQUESTED, BUILT, HANDED).by(ADMIN).when(hand_out).refused("login_handed_out", field="replay_id")
    given(REPLAYS, REQUESTED, BUILT, HANDED, DROPPED, REQUESTED, BUILT).by(ADMIN).when(hand_out).then(HANDED)


def test_a_replay_is_dropped_once_whether_it_was_built_or_not() -> None:
    drop = DropReplay(replay_id="june", comment="Done")
    given(REPLAYS).when(drop).refused("replay_not_found", field="replay_id")
    for history in ((REQUESTED,), (REQUESTED, BUILT), (REQUESTED, FAILED)):
        given(REPLAYS, *history).when(drop).then(ReplayDropped(replay_id="june", comment="Done"))
    given(REPLAYS, REQUESTED, BUILT, DROPPED).when(drop).then()


def test_auditors_and_administrators_ask_and_policies_see_how_much_is_laid_open() -> None:
    asked_by = {command.roles for command in (RequestReplay, DropReplay, HandOutLogin, SaveAuditQuery, RetireAuditQuery)}
    assert asked_by == {OVERSEERS} == {frozenset({Role.AUDITOR, Role.ADMIN})}
    assert REPLAYS.facts(Replay(), request(contexts=("catalog", "budgets"))) == {"contexts": ["budgets", "catalog"]}
    assert REPLAYS.facts(Replay(), HandOutLogin(replay_id="june")) == {}


# -- queries

ASK = SaveAuditQuery(query_id="mine", title="Mine", sql="SELECT $1, $2")
TWO = (Parameter(name="a", description="A"), Parameter(name="b", description="B", default="1"))
SAVED = AuditQuerySaved(query=SavedQuery(query_id="mine", title="Mine", sql="SELECT $1, $2", parameters=TWO))


def test_a_query_is_saved_saved_anew_and_retired() -> None:
    save = ASK.model_copy(update={"parameters": TWO})
    given(QUERIES).when(save).then(SAVED)
    given(QUERIES, SAVED).when(save).then()
    given(QUERIES, SAVED).when(save.model_copy(update={"title": "Ours"})).then(
        AuditQuerySaved(query=SAVED.query.model_copy(update={"title": "Ours"}))
    )
    given(QUERIES, SAVED).when(RetireAuditQuery(query_id="mine")).then(AuditQueryRetired(query_id="mine"))
    gone = AuditQueryRetired(query_id="mine")
    given(QUERIES, SAVED, gone).when(RetireAuditQuery(query_id="mine")).refused("query_not_found", field="query_id")
    given(QUERIES, SAVED, gone).when(save).then(SAVED)


def test_every_parameter_is_described_once_under_its_own_name() -> None:
    given(QUERIES).when(ASK).refused("parameter_not_described", field="parameters")
    given(QUERIES).when(ASK.model_copy(update={"parameters": TWO[:1]})).refused("parameter_not_described")
    given(QUERIES).when(ASK.model_copy(update={"parameters": (TWO[0], TWO[0])})).refused("parameter_named_twice", field="parameters")


def test_what_came_with_aureus_stays_as_it_is() -> None:
    for query in BUILT_IN:
        given(QUERIES).when(SaveAuditQuery(**query.model_dump())).refused("query_is_built_in", field="query_id")
        given(QUERIES).when(RetireAuditQuery(query_id=query.query_id)).refused("query_is_built_in")
    assert len({query.query_id for query in BUILT_IN}) == len(BUILT_IN) >= 8


# -- the law


class OneLogin(RuleBasedStateMachine):
    """Whatever is asked in whatever order: between a request and its end one password is shown at most, and only of what is built."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Any] = []

    def ask(self, command: Any, by: Asker = ITSELF) -> None:
        state = REPLAYS.replay(self.history)
        try:
            self.history += REPLAYS.decide(state, command, replace(given(REPLAYS).asked, by=by))
        except Refused:
            return

    @rule(position=st.integers(1, 3))
    def request(self, position: int) -> None:
        self.ask(request(position=position), ADMIN)

    @rule(by=st.sampled_from([ADMIN, ITSELF]))
    def finish(self, by: Asker) -> None:
        self.ask(FinishReplay(**FINISH), by)

    @rule(by=st.sampled_from([ADMIN, ITSELF]))
    def fail(self, by: Asker) -> None:
        self.ask(FailReplay(replay_id="june", code="x", reason="x"), by)

    @rule()
    def drop(self) -> None:
        self.ask(DropReplay(replay_id="june"), ADMIN)

    @rule()
    def hand_out(self) -> None:
        self.ask(HandOutLogin(replay_id="june"), ADMIN)

    @rule()
    def run(self) -> None:
        self.ask(RUN)

    @invariant()
    def what_was_built_and_not_dropped_is_asked_and_shown_once(self) -> None:
        status, shown = "nothing", 0
        for event in self.history:
            match event:
                case ReplayRequested():
                    assert status in {"nothing", "failed", "dropped"}
                    status, shown = "requested", 0
                case ReplayBuilt() | ReplayFailed():
                    assert status == "requested"
                    status = "built" if isinstance(event, ReplayBuilt) else "failed"
                case LoginHandedOut() | QueryRun():
                    assert status == "built"
                    shown += isinstance(event, LoginHandedOut)
                    assert shown <= 1
                case ReplayDropped():
                    assert status not in {"nothing", "dropped"}
                    status = "dropped"
                case other:
                    raise AssertionError(other)


TestOneLogin = OneLogin.TestCase
TestOneLogin.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
