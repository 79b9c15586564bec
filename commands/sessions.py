"""What may be asked of sessions and credentials: a refresh token works once, and shown twice it ends what it kept alive."""

from datetime import timedelta
from typing import Any, Final, assert_never

from domain.access import ActorId
from domain.kernel import Asked, Command, Decider, require
from domain.sessions import (
    KEEPER,
    Count,
    Credentials,
    CredentialsEvent,
    EndReason,
    LoginsSlowed,
    Method,
    PasswordChanged,
    PasswordSet,
    RecoveryCodeUsed,
    RefreshTokenReused,
    Scope,
    SecondFactorConfirmed,
    SecondFactorEnrolled,
    SecondFactorRemoved,
    Session,
    SessionEnded,
    SessionEvent,
    SessionId,
    SessionOpened,
    SessionRefreshed,
    evolve_credentials,
    evolve_session,
)
from domain.values import EVERYBODY, Role, Sha256

ADMINS: Final = frozenset({Role.ADMIN})
REFRESH_LIFETIME: Final = timedelta(days=7)
"""Of each refresh token, from the moment it is handed out: who comes back within a week stays logged in."""
SESSION_LIFETIME_MAX: Final = timedelta(days=30)
"""Of a session, however often it is refreshed."""


class OpenSession(Command, name="sessions.open_session", roles=ADMINS):
    """Put on record that an actor has proved who it is."""

    session_id: SessionId
    actor_id: ActorId
    method: Method
    refresh_sha256: Sha256
    scopes: tuple[Scope, ...] | None = None


class RefreshSession(Command, name="sessions.refresh_session", roles=ADMINS):
    """Take a refresh token for the next one; a used one ends the session."""

    session_id: SessionId
    shown_sha256: Sha256
    refresh_sha256: Sha256


class LogOut(Command, name="sessions.log_out", roles=ADMINS):
    """End a session for whoever holds a token of it."""

    restrains = True

    session_id: SessionId
    reason: EndReason = "logout"


class EndSession(Command, name="sessions.end_session", roles=EVERYBODY):
    """End a session of your own, or as an administrator somebody's: its tokens are worth nothing within a second."""

    restrains = True

    session_id: SessionId


class SetPassword(Command, name="sessions.set_password", roles=ADMINS):
    """Give somebody else a login and a password, which has to be changed at the next login."""

    actor_id: ActorId
    must_change: bool = True


class ChangePassword(Command, name="sessions.change_password", roles=EVERYBODY):
    """Change your own password; the old one has been shown."""

    actor_id: ActorId


class RecordSlowedLogins(Command, name="sessions.record_slowed_logins", roles=ADMINS):
    """Put on record that logins as an actor have to wait, for too many failed."""

    restrains = True

    actor_id: ActorId
    failed_logins: Count
    wait_seconds: Count


class EnrolSecondFactor(Command, name="sessions.enrol_second_factor", roles=EVERYBODY):
    """Get the secret of a second factor for yourself; it counts once you have confirmed it with a code."""

    actor_id: ActorId


class ConfirmSecondFactor(Command, name="sessions.confirm_second_factor", roles=EVERYBODY):
    """Put on record that you have shown a code of your second factor."""

    actor_id: ActorId
    recovery_codes: Count


class RecordRecovery(Command, name="sessions.record_recovery", roles=ADMINS):
    """Put on record that a recovery code was used up."""

    restrains = True

    actor_id: ActorId
    recovery_codes: Count


class RemoveSecondFactor(Command, name="sessions.remove_second_factor", roles=EVERYBODY):
    """Give up your second factor, having shown a code of it; or as an administrator reset somebody else's."""

    actor_id: ActorId


SessionCommand = OpenSession | RefreshSession | LogOut | EndSession
CredentialsCommand = (
    SetPassword | ChangePassword | RecordSlowedLogins | EnrolSecondFactor | ConfirmSecondFactor | RecordRecovery | RemoveSecondFactor
)


def decide_session(session: Session, command: SessionCommand, asked: Asked) -> list[SessionEvent]:
    match command:
        case OpenSession():
            _require_itself(asked)
            return [_opened(session, command, asked)]
        case RefreshSession():
            _require_itself(asked)
            return [_refreshed(session, command, asked)]
        case LogOut():
            _require_itself(asked)
            opened = _known(session, command.session_id)
            return [] if session.over else [_ended(opened, command.reason)]
        case EndSession():
            opened = _known(session, command.session_id)
            require(
                opened.actor_id == asked.by.actor or Role.ADMIN in asked.by.roles,
                "session_of_another",
                "This session is somebody else's.",
                field="session_id",
                remedy="End your own, or ask an administrator.",
            )
            return [] if session.over else [_ended(opened, "ended")]
        case _:
            assert_never(command)


def _ended(opened: SessionOpened, reason: EndReason) -> SessionEnded:
    return SessionEnded(session_id=opened.session_id, actor_id=opened.actor_id, reason=reason)


def _opened(session: Session, command: OpenSession, asked: Asked) -> SessionOpened:
    require(
        session.opened is None,
        "session_exists",
        f"There is a session {command.session_id} already.",
        field="session_id",
        remedy="Open another one, under an id of its own.",
    )
    return SessionOpened(**command.model_dump(), refresh_until=asked.at + REFRESH_LIFETIME, ends_at=asked.at + SESSION_LIFETIME_MAX)


def _refreshed(session: Session, command: RefreshSession, asked: Asked) -> SessionRefreshed | RefreshTokenReused:
    opened = _known(session, command.session_id)
    again = "Log in again."
    require(not session.over, "session_over", f"Session {command.session_id} is over.", field="refresh_token", remedy=again)
    if command.shown_sha256 in session.used:
        return RefreshTokenReused(session_id=opened.session_id, actor_id=opened.actor_id, reused_sha256=command.shown_sha256)
    require(
        command.shown_sha256 == session.refresh_sha256,
        "refresh_token_unknown",
        f"This is no refresh token of session {command.session_id}.",
        field="refresh_token",
        remedy=again,
    )
    assert session.refresh_until is not None
    require(
        asked.at < session.refresh_until,
        "refresh_token_expired",
        f"A refresh token is good for {REFRESH_LIFETIME.days} days, and a session for {SESSION_LIFETIME_MAX.days}.",
        field="refresh_token",
        remedy=again,
    )
    return SessionRefreshed(
        session_id=opened.session_id,
        refresh_sha256=command.refresh_sha256,
        refresh_until=min(asked.at + REFRESH_LIFETIME, opened.ends_at),
    )


def _known(session: Session, session_id: str) -> SessionOpened:
    require(
        session.opened is not None,
        "session_not_found",
        f"There is no session {session_id}.",
        field="session_id",
        remedy="List your sessions.",
    )
    assert session.opened is not None
    return session.opened


def decide_credentials(credentials: Credentials, command: CredentialsCommand, asked: Asked) -> list[CredentialsEvent]:
    actor_id = command.actor_id
    match command:
        case SetPassword():
            require(
                asked.by.actor != actor_id,
                "own_password",
                "Whoever changes their own password shows the old one.",
                field="actor_id",
                remedy="Change it: POST /v1/auth/password.",
            )
            return [PasswordSet(actor_id=actor_id, must_change=command.must_change)]
        case ChangePassword():
            if asked.by.actor != KEEPER:  # who has just shown the old password, to log in
                _require_own(actor_id, asked)
            return [PasswordChanged(actor_id=actor_id)]
        case RecordSlowedLogins():
            _require_itself(asked)
            return [LoginsSlowed(**command.model_dump())]
        case EnrolSecondFactor() | ConfirmSecondFactor() | RemoveSecondFactor():
            return [_second_factor(credentials, command, asked)]
        case RecordRecovery():
            _require_itself(asked)
            return [RecoveryCodeUsed(**command.model_dump())]
        case _:
            assert_never(command)


def _second_factor(
    credentials: Credentials, command: EnrolSecondFactor | ConfirmSecondFactor | RemoveSecondFactor, asked: Asked
) -> CredentialsEvent:
    actor_id, stands = command.actor_id, credentials.second_factor
    if isinstance(command, RemoveSecondFactor):
        other = Role.ADMIN in asked.by.roles and asked.by.actor != actor_id
        require(
            asked.by.actor == actor_id or other,
            "second_factor_of_another",
            f"The second factor of {actor_id} is not yours to reset.",
            field="actor_id",
            remedy="Ask an administrator.",
        )
        require(
            stands != "none",
            "second_factor_missing",
            f"{actor_id} has no second factor.",
            field="actor_id",
            remedy="There is none to reset.",
        )
        return SecondFactorRemoved(actor_id=actor_id)
    _require_own(actor_id, asked)
    if isinstance(command, EnrolSecondFactor):
        require(
            stands != "confirmed",
            "second_factor_exists",
            "You have a second factor already.",
            field="actor_id",
            remedy="Give it up first, with a code of it: POST /v1/auth/totp/remove.",
        )
        return SecondFactorEnrolled(actor_id=actor_id)
    require(
        stands == "enrolled",
        "second_factor_not_enrolled",
        "No second factor waits to be confirmed.",
        field="actor_id",
        remedy="Enrol one first: POST /v1/auth/totp.",
    )
    return SecondFactorConfirmed(actor_id=actor_id, recovery_codes=command.recovery_codes)


def _require_own(actor_id: str, asked: Asked) -> None:
    require(
        asked.by.actor == actor_id,
        "credentials_of_another",
        f"What {actor_id} proves itself by is its own business.",
        field="actor_id",
        remedy="Ask for yourself.",
    )


def _require_itself(asked: Asked) -> None:
    require(
        asked.by.actor == KEEPER,
        "only_aureus_itself",
        "Aureus itself says who has proved who they are; nobody says it in its place.",
        remedy="Log in: POST /v1/auth/token. The record follows.",
    )


def _session_facts(session: Session, command: SessionCommand) -> dict[str, Any]:
    method = command.method if isinstance(command, OpenSession) else session.opened.method if session.opened else None
    return {"method": method}


def _credentials_facts(credentials: Credentials, _command: CredentialsCommand) -> dict[str, Any]:
    return {"second_factor": credentials.second_factor}


SESSIONS: Decider[Session, SessionCommand, SessionEvent] = Decider(
    context="sessions",
    category="session",
    initial=Session(),
    evolve=evolve_session,
    decide=decide_session,
    commands=(OpenSession, RefreshSession, LogOut, EndSession),
    events=(SessionOpened, SessionRefreshed, RefreshTokenReused, SessionEnded),
    entity=lambda command: command.session_id,
    facts=_session_facts,
)
CREDENTIALS: Decider[Credentials, CredentialsCommand, CredentialsEvent] = Decider(
    context="sessions",
    category="credentials",
    initial=Credentials(),
    evolve=evolve_credentials,
    decide=decide_credentials,
    commands=(
        SetPassword,
        ChangePassword,
        RecordSlowedLogins,
        EnrolSecondFactor,
        ConfirmSecondFactor,
        RecordRecovery,
        RemoveSecondFactor,
    ),
    events=(
        PasswordSet,
        PasswordChanged,
        LoginsSlowed,
        SecondFactorEnrolled,
        SecondFactorConfirmed,
        RecoveryCodeUsed,
        SecondFactorRemoved,
    ),
    entity=lambda command: command.actor_id,
    facts=_credentials_facts,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (SESSIONS, CREDENTIALS)
