"""Where the broker is, if there is one, and how the ledger's topics are set up there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.secret_files import secret_in
from infra.settings_error import SettingsError

_SERVER: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
MAX_PARTITIONS: Final = 64


@dataclass(frozen=True)
class KafkaPlace:
    """A Kafka cluster: its first servers, the topics of this ledger there, and what opens it."""

    servers: tuple[str, ...] = ("127.0.0.1:9092",)
    topic: str = "aureus.events"
    """What the workers follow."""
    cloudevents_topic: str | None = None
    """One CloudEvents record per event, for consumers that are not ours; None leaves it out."""
    partitions: int = 4
    """Of each topic, when it is created."""
    replication: int = -1
    """Copies of each record; -1 leaves it to the broker's default."""
    tls_roots: Path | None = None
    """The PEM file of the roots that the broker's certificate is verified against; None speaks plain text, unless there is a user."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    """SASL SCRAM-SHA-512, over TLS always."""


def kafka_place(given: Callable[[str], str | None]) -> KafkaPlace:
    """The place from AUREUS_KAFKA_*; raises SettingsError."""
    servers = tuple(part.strip() for part in (given("AUREUS_KAFKA_SERVERS") or KafkaPlace.servers[0]).split(","))
    for server in servers:
        if not _SERVER.fullmatch(server):
            raise SettingsError("AUREUS_KAFKA_SERVERS", f"{server!r} is not host:port.", "Write 127.0.0.1:9092; a comma before the next.")
    user, roots = given("AUREUS_KAFKA_USER"), given("AUREUS_KAFKA_TLS_ROOTS")
    if roots is not None and not Path(roots).is_file():
        raise SettingsError("AUREUS_KAFKA_TLS_ROOTS", f"{roots} is not a file.", "Name the PEM file of the roots to believe.")
    if user is not None and roots is None:
        raise SettingsError(
            "AUREUS_KAFKA_TLS_ROOTS", "a password goes over TLS only.", "Name the PEM file of roots that the broker is verified by."
        )
    topic = _topic("AUREUS_KAFKA_TOPIC", given("AUREUS_KAFKA_TOPIC")) or KafkaPlace.topic
    cloudevents_topic = _topic("AUREUS_KAFKA_CLOUDEVENTS_TOPIC", given("AUREUS_KAFKA_CLOUDEVENTS_TOPIC"))
    if cloudevents_topic == topic:
        raise SettingsError("AUREUS_KAFKA_CLOUDEVENTS_TOPIC", f"{topic} is what the workers follow.", "Name a topic of its own.")
    return KafkaPlace(
        servers=servers,
        topic=topic,
        cloudevents_topic=cloudevents_topic,
        partitions=_count("AUREUS_KAFKA_PARTITIONS", given("AUREUS_KAFKA_PARTITIONS"), KafkaPlace.partitions, MAX_PARTITIONS),
        replication=_count("AUREUS_KAFKA_REPLICATION", given("AUREUS_KAFKA_REPLICATION"), KafkaPlace.replication, 9),
        tls_roots=Path(roots).absolute() if roots else None,
        user=user,
        password=_password(given("AUREUS_KAFKA_PASSWORD"), given("AUREUS_KAFKA_PASSWORD_FILE")) if user else None,
    )


def _topic(name: str, text: str | None) -> str | None:
    if text is not None and (not _TOPIC.fullmatch(text) or text in {".", ".."}):
        raise SettingsError(name, f"{text[:40]!r} cannot name a topic.", "Use up to 200 letters, digits, dots, dashes and underscores.")
    return text


def _count(name: str, text: str | None, default: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= most):
        raise SettingsError(name, f"{text[:20]!r} is not a number from 1 to {most}.", "Give such a number, or unset it.")
    return int(text)


def _password(password: str | None, file: str | None) -> str:
    if password is not None:
        return password
    name = "AUREUS_KAFKA_PASSWORD_FILE"
    if file is None:
        raise SettingsError("AUREUS_KAFKA_PASSWORD", "AUREUS_KAFKA_USER has none.", f"Set it, or {name}.")
    return secret_in(name, Path(file), "password")
