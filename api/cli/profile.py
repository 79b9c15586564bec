"""What the command line remembers between two commands: who is logged in where, and the last position written."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from api.cli.failures import ExitCode, Failure

DEFAULT_PORT: Final = "8420"


def home_of(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("AUREUS_HOME") or "~/.aureus").expanduser()


def local_url(environ: Mapping[str, str]) -> str:
    return f"http://127.0.0.1:{environ.get('AUREUS_PORT') or DEFAULT_PORT}"


@dataclass(frozen=True, slots=True)
class Login:
    """A login of the demo, with the password that the demo generated for it."""

    login: str
    password: str
    actor: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """An access token as it was issued, and the refresh token that the next one is had for, once; `demo` when it can be had again
    without asking for a password."""

    login: str
    access_token: str
    expires_at: float
    actor: str
    roles: tuple[str, ...]
    demo: bool
    refresh_token: str | None = None


def demo_logins(home: Path) -> dict[str, Login]:
    """The demo's logins by name; none where no demo was started."""
    path = home / "demo-logins.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failure(ExitCode.UNEXPECTED, "demo_logins_unreadable", f"{path} cannot be read: {error}") from error
    return {entry["login"]: Login(entry["login"], entry["password"], entry["actor"], tuple(entry["roles"])) for entry in entries}


def demo_login(home: Path, wanted: str) -> Login:
    """The demo login of that name, or else the first with that role."""
    logins = demo_logins(home)
    by_role = (login for login in logins.values() if wanted in login.roles)
    found = logins.get(wanted) or next(by_role, None)
    if found is None:
        known = ", ".join(f"{login.login} ({', '.join(login.roles)})" for login in logins.values())
        raise Failure(
            ExitCode.NOT_ALLOWED,
            "demo_login_unknown",
            f"No demo login is named {wanted}, nor has that role.",
            remedy=f"Use one of {known}." if known else f"There is no demo in {home}: start it, or use `aureus login`.",
        )
    return found


class Profile:
    """`cli.json` in the home directory, as it concerns one server; readable by its owner alone."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url
        self._path = home / "cli.json"

    @property
    def position(self) -> int:
        """The last position that a command of ours was written at; reads wait for it."""
        return int(self._server().get("position", 0))

    @property
    def current(self) -> str | None:
        """The login that commands act as."""
        return self._server().get("current")

    @property
    def signing_key(self) -> str | None:
        """The file of the key that commands are signed with."""
        return self._server().get("signing_key")

    @property
    def ledger(self) -> str | None:
        """The ledger that commands are signed for: the one that was there the first time."""
        return self._server().get("ledger")

    def token(self, login: str) -> Token | None:
        stored = self._server().get("tokens", {}).get(login)
        return Token(**{**stored, "roles": tuple(stored["roles"])}) if stored else None

    def tokens(self) -> list[Token]:
        """Every token of this server."""
        found = (self.token(login) for login in self._server().get("tokens", {}))
        return [token for token in found if token is not None]

    @contextmanager
    def refreshing(self) -> Iterator[None]:
        """One process at a time: a refresh token that two of them show is taken for a stolen one."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.home / "cli.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def remember(self, position: int) -> None:
        if position > self.position:
            self._change({"position": position})

    def keep(self, token: Token) -> None:
        self._change({"tokens": {**self._server().get("tokens", {}), token.login: asdict(token)}})

    def act_as(self, login: str) -> None:
        self._change({"current": login})

    def sign_with(self, file: str) -> None:
        self._change({"signing_key": file})

    def sign_for(self, ledger: str) -> None:
        self._change({"ledger": ledger})

    def forget(self) -> None:
        """Drops every token of this server, the key that was signed with, and how far its ledger was seen."""
        self._change({"current": None, "tokens": {}, "position": 0, "signing_key": None, "ledger": None})

    def _all(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}

    def _server(self) -> dict[str, Any]:
        server = self._all().get(self.url)
        return server if isinstance(server, dict) else {}

    def _change(self, changes: dict[str, Any]) -> None:
        stored = self._all()
        stored[self.url] = {**self._server(), **changes}
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A temporary file is created 0600 and moved into place: a reader sees the old or the new, and nobody else sees either.
        handle, temporary = tempfile.mkstemp(dir=self.home, prefix="cli.", suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(stored, file, indent=1)
        Path(temporary).replace(self._path)
