"""The law of refresh tokens: whatever is shown in whatever order, one that was used never works again, and showing it ends the session."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from commands.sessions import REFRESH_LIFETIME, SESSION_LIFETIME_MAX, SESSIONS, LogOut, OpenSession, RefreshSession
from domain.kernel import Asked, Asker, Event, Refused
from domain.sessions import KEEPER, RefreshTokenReused, Session, SessionRefreshed
from domain.values import ActorKind, Role
from tests.given import ACTION_ID, AT

ID = f"ses-{'0' * 32}"
ITSELF = Asker(KEEPER, "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)


class Family(RuleBasedStateMachine):
    """Somebody who keeps every refresh token they ever got, and a model of which of them is good."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = Asked(ITSELF, AT, ACTION_ID)
        self.session: Session = SESSIONS.initial
        self.numbers = itertools.count()
        self.handed_out = [self.fresh()]
        self.good_until = AT + REFRESH_LIFETIME
        self.over = False
        self.decide(OpenSession(session_id=ID, actor_id="usr-ana", method="password", refresh_sha256=self.handed_out[0]))

    def fresh(self) -> str:
        return hashlib.sha256(str(next(self.numbers)).encode()).hexdigest()

    def decide(self, command: OpenSession | RefreshSession | LogOut) -> list[Event]:
        events = list(SESSIONS.decide(self.session, command, self.asked))
        self.session = SESSIONS.replay(events, self.session)
        return list(events)

    def shown(self, digest: str) -> Event | str:
        """The event that showing a token leads to, or the code of the refusal."""
        fresh = self.fresh()
        try:
            (event,) = self.decide(RefreshSession(session_id=ID, shown_sha256=digest, refresh_sha256=fresh))
        except Refused as refused:
            return refused.code
        if isinstance(event, SessionRefreshed):
            self.handed_out.append(fresh)
            self.good_until = event.refresh_until
        return event

    @rule()
    def the_last_one_works_while_it_is_good(self) -> None:
        good, ended = self.asked.at < self.good_until, self.over
        told = self.shown(self.handed_out[-1])
        if ended:
            assert told == "session_over"
        elif good:
            assert isinstance(told, SessionRefreshed)
        else:
            assert told == "refresh_token_expired"

    @precondition(lambda self: len(self.handed_out) > 1)
    @rule(data=st.data())
    def a_used_one_never_works_and_ends_the_session(self, data: st.DataObject) -> None:
        used, ended = data.draw(st.sampled_from(self.handed_out[:-1])), self.over
        told = self.shown(used)
        assert told == "session_over" if ended else isinstance(told, RefreshTokenReused)
        self.over = True

    @rule()
    def what_was_never_handed_out_changes_nothing(self) -> None:
        before = self.session
        assert self.shown(self.fresh()) == ("session_over" if self.over else "refresh_token_unknown")
        assert self.session == before

    @rule()
    def whoever_logs_out_is_out(self) -> None:
        events = self.decide(LogOut(session_id=ID))
        assert bool(events) != self.over
        self.over = True

    @rule(days=st.floats(min_value=0, max_value=9))
    def time_goes_by(self, days: float) -> None:
        self.asked = replace(self.asked, at=self.asked.at + timedelta(days=days))

    @invariant()
    def no_token_outlives_a_month(self) -> None:
        assert self.good_until <= AT + SESSION_LIFETIME_MAX

    @invariant()
    def over_is_over(self) -> None:
        assert self.session.over == self.over


def test_no_refresh_token_ever_works_twice() -> None:
    run_state_machine_as_test(Family)
