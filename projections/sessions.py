"""Sessions and credentials as people read them: who is logged in since when and by what, and how everybody proves who they are."""

from domain.kernel import Recorded, timestamp
from domain.sessions import (
    LoginsSlowed,
    PasswordChanged,
    PasswordSet,
    RecoveryCodeUsed,
    RefreshTokenReused,
    SecondFactorConfirmed,
    SecondFactorEnrolled,
    SecondFactorRemoved,
    SessionEnded,
    SessionOpened,
    SessionRefreshed,
)
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class SessionRow:
    """One session; `status` is open or ended. An open one that is not refreshed until `refresh_until` is over by itself."""

    session_id: str
    actor_id: str
    method: str
    scopes: list[str] | None
    status: str
    opened_at: str
    refreshed_at: str
    refresh_until: str
    ends_at: str
    ended_at: str | None
    ended_by: str | None
    end_reason: str | None


@read_row
class CredentialsRow:
    """How an actor proves who it is: `password` is none, set or must_change; `second_factor` none, enrolled or confirmed."""

    actor_id: str
    password: str
    password_at: str | None
    second_factor: str
    second_factor_at: str | None
    recovery_codes: int
    slowed_at: str | None


sessions = ReadTable(
    "sessions",
    SessionRow,
    filters=("actor_id", "status", "method"),
    sorts=("opened_at", "refreshed_at"),
    history="long",
)
credentials = ReadTable(
    "credentials",
    CredentialsRow,
    filters=("actor_id", "password", "second_factor"),
    sorts=("actor_id", "password_at", "slowed_at"),
)


@sessions.on(SessionOpened)
def opened(_row: None, recorded: Recorded[SessionOpened], session_id: str) -> SessionRow:
    event = recorded.event
    return SessionRow(
        session_id=session_id,
        actor_id=event.actor_id,
        method=event.method,
        scopes=None if event.scopes is None else list(event.scopes),
        status="open",
        opened_at=recorded.at_text,
        refreshed_at=recorded.at_text,
        refresh_until=timestamp(event.refresh_until),
        ends_at=timestamp(event.ends_at),
        ended_at=None,
        ended_by=None,
        end_reason=None,
    )


@sessions.on(SessionRefreshed)
def refreshed(row: SessionRow, recorded: Recorded[SessionRefreshed], _session_id: str) -> SessionRow:
    return replace(row, refreshed_at=recorded.at_text, refresh_until=timestamp(recorded.event.refresh_until))


@sessions.on(SessionEnded, RefreshTokenReused)
def ended(row: SessionRow, recorded: Recorded[SessionEnded | RefreshTokenReused], _session_id: str) -> SessionRow:
    event = recorded.event
    reason = event.reason if isinstance(event, SessionEnded) else "refresh_token_reused"
    return replace(row, status="ended", ended_at=recorded.at_text, ended_by=recorded.actor, end_reason=reason)


@credentials.on(PasswordSet, PasswordChanged)
def password(row: CredentialsRow | None, recorded: Recorded[PasswordSet | PasswordChanged], actor_id: str) -> CredentialsRow:
    must_change = isinstance(recorded.event, PasswordSet) and recorded.event.must_change
    return replace(row or _none(actor_id), password="must_change" if must_change else "set", password_at=recorded.at_text)


@credentials.on(SecondFactorEnrolled)
def enrolled(row: CredentialsRow | None, recorded: Recorded[SecondFactorEnrolled], actor_id: str) -> CredentialsRow:
    return replace(row or _none(actor_id), second_factor="enrolled", second_factor_at=recorded.at_text, recovery_codes=0)


@credentials.on(SecondFactorConfirmed)
def confirmed(row: CredentialsRow, recorded: Recorded[SecondFactorConfirmed], _actor_id: str) -> CredentialsRow:
    codes = recorded.event.recovery_codes
    return replace(row, second_factor="confirmed", second_factor_at=recorded.at_text, recovery_codes=codes)


@credentials.on(RecoveryCodeUsed)
def recovered(row: CredentialsRow | None, recorded: Recorded[RecoveryCodeUsed], actor_id: str) -> CredentialsRow:
    return replace(row or _none(actor_id), recovery_codes=recorded.event.recovery_codes)


@credentials.on(SecondFactorRemoved)
def removed(row: CredentialsRow, recorded: Recorded[SecondFactorRemoved], _actor_id: str) -> CredentialsRow:
    return replace(row, second_factor="none", second_factor_at=recorded.at_text, recovery_codes=0)


@credentials.on(LoginsSlowed)
def slowed(row: CredentialsRow | None, recorded: Recorded[LoginsSlowed], actor_id: str) -> CredentialsRow:
    return replace(row or _none(actor_id), slowed_at=recorded.at_text)


def _none(actor_id: str) -> CredentialsRow:
    return CredentialsRow(actor_id, "none", None, "none", None, 0, None)


PROJECTION = Projection("sessions", (sessions, credentials), ordering="stream")
