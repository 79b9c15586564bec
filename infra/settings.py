"""Where this Aureus lives and how it is reached: its settings, read once from the environment and never changed after."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.addresses import is_private, url_in
from infra.kafka_settings import KafkaPlace, kafka_place
from infra.limit_settings import Front, front
from infra.observing_settings import Observing, observing
from infra.oidc_settings import OidcPlace, oidc_place
from infra.operations_settings import Operations, operations
from infra.s3_settings import S3Place, s3_place
from infra.secret_files import secret_in
from infra.settings_error import SettingsError
from infra.token_settings import TokenSettings, token_settings
from infra.verifier.notes import WITNESS, BadNote, VerifierKey
from infra.verifier.tree import TILE_WIDTH

__all__ = ["KafkaPlace", "S3Place", "Settings", "SettingsError", "TimestampPlace", "TokenPlace", "WitnessPlace", "private_folder"]

SEGMENT_EVENTS_MAX: Final = 65_536
"""Of a segment of the archive; it has fewer where events are large."""
STREAMS: Final = ("inprocess", "kafka")
LOG_LEVELS: Final = ("critical", "error", "warning", "info", "debug")
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/=~-]{0,199}")
_SHARED_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_IN_FILES: Final = frozenset(
    {"DATABASE_URL", "AUREUS_VAULT_KEYS_URL", "AUREUS_S3_ACCESS_KEY", "AUREUS_S3_SECRET_KEY", "AUREUS_OPA_TOKEN", "AUREUS_REDIS_URL"}
)
"""Settings that hold a secret, and may name a file with it instead (NAME_FILE); other modules see to theirs."""
_TOKEN_ROLES: Final = ("root", "log", "service")


@dataclass(frozen=True)
class TokenPlace:
    """The PKCS#11 token (an HSM) that keeps the keys of some roles: its library, its label, and the PIN that opens it."""

    module: Path
    label: str
    roles: tuple[str, ...]
    pin: str = field(repr=False)


@dataclass(frozen=True)
class WitnessPlace:
    """A witness: the key that its cosignatures are verified with, and the URL under which it takes checkpoints."""

    key: VerifierKey
    url: str


@dataclass(frozen=True)
class TimestampPlace:
    """A timestamp authority (RFC 3161): its URL, the PEM file of the roots it is verified against, and how often it is asked."""

    url: str
    roots: Path
    interval_seconds: int


@dataclass(frozen=True)
class Settings:
    """The settings of one Aureus. `database_url` None means the embedded PostgreSQL in `home`, `s3` None the artifacts there too."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8420
    database_url: str | None = field(default=None, repr=False)
    tenant: str = "demo"
    origin: str | None = None
    """The ledger's own name in checkpoints; None lets the ledger keep the one it was born with, or choose one."""
    vault_keys_url: str | None = None
    """Where the keys of personal values are; None keeps them in the ledger's own database."""
    policies: Path | None = None
    """A folder of Rego policies instead of those shipped."""
    log_level: str = "info"
    demo: bool = True
    """Whether the first start makes the demo's logins; turn it off (AUREUS_DEMO=off) once people have their own."""
    s3: S3Place | None = None
    opa_url: str | None = None
    """The OPA server that judges; None lets a worker process of Aureus' own do it."""
    opa_token: str | None = field(default=None, repr=False)
    witnesses: tuple[WitnessPlace, ...] | None = None
    """Who cosigns the checkpoints; None lets the demo bring a witness of its own."""
    witnesses_required: int = 1
    """How many of them must have cosigned a checkpoint before it is handed out as witnessed."""
    timestamps: TimestampPlace | None = None
    token_place: TokenPlace | None = None
    """Where the ledger's own keys are instead of in files; None leaves them all in `keys_dir`."""

    kafka: KafkaPlace | None = None
    """The broker through which the read models follow the ledger; None lets this process move them itself."""
    operations: Operations = field(default_factory=Operations)
    observing: Observing = field(default_factory=Observing)
    """Who may read its metrics, how it logs, and where its spans go."""
    front: Front = field(default_factory=Front)
    """What the front door lets in."""
    oidc: OidcPlace | None = None
    """The identity provider whose people log in here; None leaves it to passwords."""
    tokens: TokenSettings = field(default_factory=TokenSettings)
    """How people log in, and how long what they get is good for."""
    index_minutes: int = 60
    """How often the index of topics is committed, when something new has happened; an export commits it besides."""
    archive_events: int = 0
    """How many events are sealed into a segment of the archive whenever so many are there; 0 seals when somebody asks."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings from AUREUS_* and DATABASE_URL; creates the home folder. Raises SettingsError."""

        def given(name: str) -> str | None:
            text = environment.get(name, "").strip() or None
            file = environment.get(f"{name}_FILE", "").strip() if text is None and name in _IN_FILES else ""
            return secret_in(f"{name}_FILE", Path(file), "secret") if file else text

        policies = given("AUREUS_POLICIES")
        return cls(
            home=private_folder("AUREUS_HOME", Path(given("AUREUS_HOME") or "~/.aureus").expanduser()),
            host=given("AUREUS_HOST") or cls.host,
            port=_port(given("AUREUS_PORT")),
            database_url=_database_url("DATABASE_URL", given("DATABASE_URL")),
            vault_keys_url=_database_url("AUREUS_VAULT_KEYS_URL", given("AUREUS_VAULT_KEYS_URL")),
            tenant=_tenant(given("AUREUS_TENANT")),
            origin=_origin(given("AUREUS_ORIGIN")),
            policies=_existing_folder("AUREUS_POLICIES", Path(policies)) if policies else None,
            log_level=_log_level(given("AUREUS_LOG_LEVEL")),
            demo=_switch("AUREUS_DEMO", given("AUREUS_DEMO"), default=cls.demo),
            s3=s3_place(given),
            opa_url=_opa_url(given("AUREUS_OPA_URL")),
            opa_token=given("AUREUS_OPA_TOKEN"),
            witnesses=(witnesses := _witnesses(given("AUREUS_WITNESSES"))),
            witnesses_required=_witnesses_required(given("AUREUS_WITNESSES_REQUIRED"), witnesses),
            timestamps=_timestamps(given("AUREUS_TSA_URL"), given("AUREUS_TSA_CERTIFICATES"), given("AUREUS_TSA_INTERVAL_SECONDS")),
            token_place=_token_place(given),
            kafka=kafka_place(given) if _streams(given("AUREUS_STREAMS")) == "kafka" else None,
            observing=observing(given, environment),
            operations=operations(given),
            tokens=token_settings(given),
            front=front(given),
            oidc=oidc_place(given, _port(given("AUREUS_PORT"))),
            archive_events=_archive_events(given("AUREUS_ARCHIVE_EVENTS")),
            index_minutes=_minutes("AUREUS_INDEX_MINUTES", given("AUREUS_INDEX_MINUTES"), cls.index_minutes),
        )

    @property
    def postgres_dir(self) -> Path:
        return self.home / "postgres"

    @property
    def keys_dir(self) -> Path:
        return self.home / "keys"

    @property
    def exports_dir(self) -> Path:
        return self.home / "exports"

    @property
    def archive_dir(self) -> Path:
        """Where segments lie while they are written, read or asked."""
        return self.home / "archive"

    @property
    def blobs_dir(self) -> Path:
        return self.home / "blobs"

    @property
    def witness_dir(self) -> Path:
        return self.home / "witness"

    @property
    def brings_witness(self) -> bool:
        """Whether a witness of its own is started beside it."""
        return self.demo and self.witnesses is None

    @property
    def demo_logins_file(self) -> Path:
        return self.home / "demo-logins.json"


def private_folder(name: str, path: Path) -> Path:
    """The folder, created 0700 when missing; refused when another account owns it or can write to it."""
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except FileExistsError:
        raise SettingsError(name, f"{path} is not a folder.", "Name a folder.") from None
    except OSError as error:
        raise SettingsError(name, f"{path} cannot be created: {error.strerror}.", "Name a folder that you may write to.") from error
    if found.st_uid != os.geteuid():
        raise SettingsError(
            name,
            f"{path} belongs to user id {found.st_uid}, and Aureus runs as {os.geteuid()}.",
            f"Run Aureus as its owner, name another folder, or hand it over: chown -R {os.geteuid()} {path}",
        )
    if found.st_mode & _SHARED_WRITE:
        raise SettingsError(
            name,
            f"{path} can be written to by other accounts (mode {stat.S_IMODE(found.st_mode):04o}).",
            f"Close it: chmod go-w {path}",
        )
    return path


def _existing_folder(name: str, path: Path) -> Path:
    if not path.is_dir():
        raise SettingsError(name, f"{path} is not a folder.", "Name a folder of Rego policies, or leave it unset.")
    return path.absolute()


def _port(text: str | None) -> int:
    if text is None:
        return Settings.port
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65_536):
        raise SettingsError("AUREUS_PORT", f"{text[:20]!r} is not a port.", "Give a number from 1 to 65535.")
    return int(text)


def _minutes(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) > 0):
        raise SettingsError(name, f"{text[:20]!r} is not a number of minutes.", "Give a whole number from 1 to 99999.")
    return int(text)


def _archive_events(text: str | None) -> int:
    if text in (None, "off"):
        return 0
    assert text is not None
    events = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 0 < events <= SEGMENT_EVENTS_MAX or events % TILE_WIDTH:
        raise SettingsError(
            "AUREUS_ARCHIVE_EVENTS",
            f"{text[:20]!r} is no size of a segment: it is made of whole tiles of {TILE_WIDTH} events.",
            f"Give a multiple of {TILE_WIDTH} up to {SEGMENT_EVENTS_MAX}, or off.",
        )
    return events


def _database_url(name: str, text: str | None) -> str | None:
    if text is not None and not text.startswith(("postgresql://", "postgres://")):
        raise SettingsError(
            name,
            "it is not a PostgreSQL URL.",
            "Write postgresql://user:password@host:5432/name, or unset it.",
        )
    return text


def _origin(text: str | None) -> str | None:
    # The name stands on a line of its own in checkpoints and between spaces in verifier keys (C2SP signed note).
    if text is not None and (not text.isprintable() or "+" in text or any(character.isspace() for character in text)):
        raise SettingsError("AUREUS_ORIGIN", f"{text!r} cannot name a ledger.", "Use a name such as ledger.example.org/main.")
    return text


def _tenant(text: str | None) -> str:
    tenant = text or Settings.tenant
    if not _TENANT.fullmatch(tenant):
        raise SettingsError(
            "AUREUS_TENANT", f"{tenant!r} cannot be a tenant's id.", "Use up to 200 ASCII letters, digits, dots and dashes."
        )
    return tenant


def _switch(field: str, text: str | None, *, default: bool) -> bool:
    if text is None:
        return default
    if text.lower() not in {"on", "off"}:
        raise SettingsError(field, f"{text!r} is neither on nor off.", "Write on or off, or unset it.")
    return text.lower() == "on"


def _streams(text: str | None) -> str:
    streams = text or "inprocess"
    if streams not in STREAMS:
        raise SettingsError("AUREUS_STREAMS", f"{streams[:20]!r} is no way for events to travel.", f"Write {' or '.join(STREAMS)}.")
    return streams


def _log_level(text: str | None) -> str:
    level = (text or Settings.log_level).lower()
    if level not in LOG_LEVELS:
        raise SettingsError("AUREUS_LOG_LEVEL", f"{text!r} is not a level.", f"Use one of {', '.join(LOG_LEVELS)}.")
    return level


def _opa_url(text: str | None) -> str | None:
    if text is not None and ("@" in text or not is_private(url_in("AUREUS_OPA_URL", text))):
        raise SettingsError(
            "AUREUS_OPA_URL",
            "it is not https://host[:port], nor http:// on this machine.",
            "Write http://127.0.0.1:8181, or unset it; a token goes into AUREUS_OPA_TOKEN.",
        )
    return text


def _witnesses(text: str | None) -> tuple[WitnessPlace, ...] | None:
    if text is None:
        return None
    if text.lower() == "none":
        return ()
    places = tuple(_witness(part.split()) for part in text.split(","))
    if len({place.key.key_id for place in places}) < len(places):
        raise SettingsError("AUREUS_WITNESSES", "a witness is named twice.", "Name each once: it counts once.")
    return places


def _witness(words: list[str]) -> WitnessPlace:
    example = "Write VERIFIER-KEY URL, and a comma before the next; `aureus witness run` prints both."
    if len(words) != 2:
        raise SettingsError("AUREUS_WITNESSES", f"{' '.join(words)!r} is not a verifier key and a URL.", example)
    try:
        key = VerifierKey.parse(words[0])
    except BadNote as error:
        raise SettingsError("AUREUS_WITNESSES", f"{error}.", example) from error
    if key.kind != WITNESS:
        rule = f"the key of {key.name} is that of a log (kind {key.kind})."
        raise SettingsError("AUREUS_WITNESSES", rule, f"Give one of kind {WITNESS}.")
    url = url_in("AUREUS_WITNESSES", words[1])
    if "@" in words[1] or not is_private(url._replace(path="")):
        raise SettingsError("AUREUS_WITNESSES", f"where {key.name} is is not https://host[:port], nor http:// on this machine.", example)
    return WitnessPlace(key, words[1].rstrip("/"))


def _witnesses_required(text: str | None, witnesses: tuple[WitnessPlace, ...] | None) -> int:
    if text is None:
        return Settings.witnesses_required
    most = 1 if witnesses is None else len(witnesses)
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= most):
        rule = f"{text[:20]!r} of {most} witnesses cannot be required."
        raise SettingsError("AUREUS_WITNESSES_REQUIRED", rule, "Give a number from 1 to that of AUREUS_WITNESSES, or unset it.")
    return int(text)


def _timestamps(url: str | None, roots: str | None, interval: str | None) -> TimestampPlace | None:
    if url is None:
        return None
    parts = url_in("AUREUS_TSA_URL", url)
    if "@" in url or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError("AUREUS_TSA_URL", "it is not http(s)://host/path.", "Write the URL of a timestamp authority (RFC 3161).")
    if roots is None or not Path(roots).is_file():
        rule = "a timestamp is worth what its authority is, and no certificates say whom to believe."
        raise SettingsError("AUREUS_TSA_CERTIFICATES", rule, "Name a file with the authority's root certificate (PEM).")
    text = interval or "3600"
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) > 0):
        raise SettingsError("AUREUS_TSA_INTERVAL_SECONDS", f"{text[:20]!r} is not a time.", "Give a number of seconds, such as 3600.")
    return TimestampPlace(url, Path(roots).absolute(), int(text))


def _token_place(given: Callable[[str], str | None]) -> TokenPlace | None:
    module, label = given("AUREUS_PKCS11_MODULE"), given("AUREUS_PKCS11_TOKEN")
    if module is None and label is None:
        return None
    if module is None or label is None:
        missing = "AUREUS_PKCS11_TOKEN" if label is None else "AUREUS_PKCS11_MODULE"
        raise SettingsError(missing, "it is needed beside the other.", "Name both the library of your HSM and the label of its token.")
    roles = tuple(role.strip() for role in (given("AUREUS_PKCS11_ROLES") or "log,service").split(","))
    if unknown := [role for role in roles if role not in _TOKEN_ROLES]:
        known = ", ".join(_TOKEN_ROLES)
        raise SettingsError("AUREUS_PKCS11_ROLES", f"{unknown[0]!r} is no role whose key a token can keep.", f"Name some of {known}.")
    return TokenPlace(Path(module), label, roles, _pin(given("AUREUS_PKCS11_PIN"), given("AUREUS_PKCS11_PIN_FILE")))


def _pin(pin: str | None, file: str | None) -> str:
    if pin is not None:
        return pin
    if file is None:
        raise SettingsError("AUREUS_PKCS11_PIN", "nothing opens the token.", "Set it, or AUREUS_PKCS11_PIN_FILE.")
    return secret_in("AUREUS_PKCS11_PIN_FILE", Path(file), "PIN")
