"""A session: one actor logged in, kept alive by refresh tokens each of which works once; and credentials: how an actor proves who it is.

No secret stands here: of a refresh token its SHA-256, of passwords and second factors only that they were set, used or taken away.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Final, Literal, assert_never

from immutables import Map
from pydantic import AwareDatetime, Field, StringConstraints

from domain.access import ActorId
from domain.kernel import Event
from domain.reactions import REACTOR
from domain.values import Sha256

KEEPER: Final = REACTOR
"""Aureus itself: it has seen the password, the code or the refresh token that the record speaks of."""

SessionId = Annotated[str, StringConstraints(pattern=r"^ses-[0-9a-f]{32}$")]
Method = Annotated[str, StringConstraints(pattern=r"^[a-z]+(\+[a-z]+)*$", max_length=64)]
"""By what it was opened: `password`, `password+totp`, `password+recovery`, `oidc`."""
Scope = Annotated[str, StringConstraints(pattern=r"^[a-z_]+(\.[a-z_]+)?$", max_length=100)]
EndReason = Literal["logout", "ended", "password_changed", "second_factor_changed"]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class SessionOpened(Event, name="sessions.session_opened"):
    """An actor logged in. `scopes` bound what the session may be used for; None: for all that the actor may do."""

    session_id: SessionId
    actor_id: ActorId
    method: Method
    refresh_sha256: Sha256
    refresh_until: AwareDatetime
    ends_at: AwareDatetime
    scopes: tuple[Scope, ...] | None = None


class SessionRefreshed(Event, name="sessions.session_refreshed"):
    """A refresh token was shown and is used up; the next one has this digest."""

    session_id: SessionId
    refresh_sha256: Sha256
    refresh_until: AwareDatetime


class RefreshTokenReused(Event, name="sessions.refresh_token_reused"):
    """A refresh token was shown a second time: somebody has a copy of it, so the session is over for both."""

    session_id: SessionId
    actor_id: ActorId
    reused_sha256: Sha256


class SessionEnded(Event, name="sessions.session_ended"):
    """The session is over, with every token of it."""

    session_id: SessionId
    actor_id: ActorId
    reason: EndReason


class PasswordSet(Event, name="sessions.password_set"):
    """An administrator gave an actor a login and a password."""

    actor_id: ActorId
    must_change: bool


class PasswordChanged(Event, name="sessions.password_changed"):
    """An actor changed its password, and has shown the old one."""

    actor_id: ActorId


class LoginsSlowed(Event, name="sessions.logins_slowed"):
    """So many logins as this actor failed lately that the next have to wait."""

    actor_id: ActorId
    failed_logins: Count
    wait_seconds: Count


class SecondFactorEnrolled(Event, name="sessions.second_factor_enrolled"):
    """An actor was given the secret of a second factor, and has yet to show a code made from it."""

    actor_id: ActorId


class SecondFactorConfirmed(Event, name="sessions.second_factor_confirmed"):
    """The actor has shown a code: every login with its password takes one from now on, or one of so many recovery codes."""

    actor_id: ActorId
    recovery_codes: Count


class RecoveryCodeUsed(Event, name="sessions.recovery_code_used"):
    """A recovery code stood in for the second factor, and is used up."""

    actor_id: ActorId
    recovery_codes: Count


class SecondFactorRemoved(Event, name="sessions.second_factor_removed"):
    """The second factor and its recovery codes are worth nothing any more."""

    actor_id: ActorId


SessionEvent = SessionOpened | SessionRefreshed | RefreshTokenReused | SessionEnded
CredentialsEvent = (
    PasswordSet | PasswordChanged | LoginsSlowed | SecondFactorEnrolled | SecondFactorConfirmed | RecoveryCodeUsed | SecondFactorRemoved
)


@dataclass(frozen=True, slots=True)
class Session:
    """One session; `opened` is None before it was. `used` are the digests of refresh tokens that had their turn."""

    opened: SessionOpened | None = None
    refresh_sha256: str = ""
    refresh_until: datetime | None = None
    used: Map[str, None] = field(default_factory=Map)
    over: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """How an actor proves who it is; `second_factor` counts only when it was confirmed."""

    password: bool = False
    second_factor: Literal["none", "enrolled", "confirmed"] = "none"
    recovery_codes: int = 0


def evolve_session(session: Session, event: SessionEvent) -> Session:
    match event:
        case SessionOpened():
            return Session(event, event.refresh_sha256, event.refresh_until)
        case SessionRefreshed():
            used = session.used.set(session.refresh_sha256, None)
            return replace(session, refresh_sha256=event.refresh_sha256, refresh_until=event.refresh_until, used=used)
        case RefreshTokenReused() | SessionEnded():
            return replace(session, over=True)
        case _:
            assert_never(event)


def evolve_credentials(credentials: Credentials, event: CredentialsEvent) -> Credentials:
    match event:
        case PasswordSet() | PasswordChanged():
            return replace(credentials, password=True)
        case LoginsSlowed():
            return credentials
        case SecondFactorEnrolled():
            return replace(credentials, second_factor="enrolled", recovery_codes=0)
        case SecondFactorConfirmed():
            return replace(credentials, second_factor="confirmed", recovery_codes=event.recovery_codes)
        case RecoveryCodeUsed():
            return replace(credentials, recovery_codes=event.recovery_codes)
        case SecondFactorRemoved():
            return replace(credentials, second_factor="none", recovery_codes=0)
        case _:
            assert_never(event)
