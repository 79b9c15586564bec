"""Webhooks beside the ledger: their secrets, the queue of what is still to be delivered, and one delivery over HTTP.

The queue is a table and no stream of events: a delivery is tried again until it succeeds, at a pace and so often that it would
drown what governance has to say, and to build it again from the ledger would send everything again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final, Literal, LiteralString, Protocol
from urllib.parse import urlsplit

import httpx
import orjson
from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.kernel import JsonObject
from domain.ledger import LedgerUnavailable
from domain.notifications import NotificationSent, refused_address
from infra.key_encryption import KekMissing, KeyEncryptionKeys
from infra.read_tables import LIVE, schema_name
from infra.vault import VaultError, open_bytes, seal_bytes
from projections.engine import OPEN
from projections.notifications import PROJECTION, notifications, webhooks

ANSWER_SECONDS: Final = 10.0
"""How long a receiver may take, from the first look at its name to the head of its answer."""
CLAIM_SECONDS: Final = 60
"""How long a delivery belongs to whoever took it up; one whose process died is due again then."""
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets begin with, by the Standard Webhooks convention
_SECRET_BYTES: Final = 32
_REASON_LENGTH: Final = 300
State = Literal["pending", "delivered", "failed", "dropped"]


@dataclass(frozen=True, slots=True)
class Message:
    """What is delivered; `id` stays the same however often it is, so a receiver can tell a repetition."""

    id: str
    body: bytes


class NotDelivered(Exception):
    """The receiver did not take it, or must not be spoken with; the reason is for the operator."""


class WebhookPort(Protocol):
    """Carries one message to one receiver, once."""

    async def deliver(self, url: str, secret: str, message: Message) -> None:
        """Returns when the receiver has taken it. Raises NotDelivered."""
        ...


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a delivery (Standard Webhooks): HMAC-SHA256 over id, time and body, in base64."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def secret_digest(secret: str) -> str:
    """What the ledger keeps of a secret. It is 256 random bits, so its digest gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()


class HttpWebhooks:
    """Implements `WebhookPort` over HTTP.

    The name is looked up here and the connection goes to the address that was judged: a name that turns to another address
    between the look and the connection leads nowhere. Redirections are not followed, and no proxy is asked, for the same reason.
    """

    def __init__(
        self, *, answer_seconds: float = ANSWER_SECONDS, tls: ssl.SSLContext | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._answer_seconds, self._now = answer_seconds, now
        # A connection kept for later would be found by its address, whatever host its certificate was checked for.
        self._http = httpx.AsyncClient(
            verify=tls or ssl.create_default_context(),
            trust_env=False,
            timeout=answer_seconds,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def deliver(self, url: str, secret: str, message: Message) -> None:
        timestamp = int(self._now())
        headers = {
            "host": urlsplit(url).netloc,
            "content-type": "application/json",
            "user-agent": "aureus-webhooks",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, message.id, timestamp, message.body),
        }
        try:
            async with asyncio.timeout(self._answer_seconds):
                status = await self._post(url, message.body, headers)
        except (TimeoutError, httpx.TimeoutException):
            raise NotDelivered(f"no answer within {self._answer_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}"[:_REASON_LENGTH]) from error
        if not 200 <= status < 300:
            raise NotDelivered(f"answered {status}")

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer; its body is not read, whatever its length."""
        certified_as = {"sni_hostname": urlsplit(url).hostname}
        unreachable: httpx.ConnectError | None = None
        for address in await _judged_addresses(url):
            to = httpx.URL(url).copy_with(host=address)
            try:
                async with self._http.stream("POST", to, content=body, headers=headers, extensions=certified_as) as response:
                    return response.status_code
            except httpx.ConnectError as error:
                unreachable = error
        assert unreachable is not None, "a name that is known has an address"
        raise unreachable


async def _judged_addresses(url: str) -> list[str]:
    """Where a URL leads now. Raises NotDelivered when any of it is where nothing may be delivered to."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        reason = refused_address(ip_address(address))
        if reason is not None:
            raise NotDelivered(f"{parts.hostname} is {address}: {reason}")
        if parts.scheme != "https" and not ip_address(address).is_loopback:
            raise NotDelivered(f"{parts.hostname} is {address}, and http is good for this very machine alone")
    return addresses


SCHEMA: Final = """
    SELECT pg_advisory_xact_lock(7283645);
    CREATE SCHEMA IF NOT EXISTS notifications_private;
    CREATE TABLE IF NOT EXISTS notifications_private.secrets (
        tenant     text  NOT NULL,
        webhook_id text  NOT NULL,
        sealed     bytea NOT NULL,
        kek        text  NOT NULL DEFAULT '',
        PRIMARY KEY (tenant, webhook_id)
    );
    DO $$
    BEGIN
        IF NOT EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = 'notifications_private.secrets'::regclass AND attname = 'kek'
        ) THEN
            ALTER TABLE notifications_private.secrets ADD COLUMN kek text NOT NULL DEFAULT '';
        END IF;
    END $$;
    CREATE TABLE IF NOT EXISTS notifications_private.deliveries (
        tenant          text        NOT NULL,
        webhook_id      text        NOT NULL,
        notification_id text        NOT NULL,
        position        bigint      NOT NULL,
        state           text        NOT NULL DEFAULT 'pending',
        tries           int         NOT NULL DEFAULT 0,
        due_at          timestamptz NOT NULL DEFAULT now(),
        claimed_until   timestamptz NOT NULL DEFAULT '-infinity',
        settled_at      timestamptz,
        problem         text,
        PRIMARY KEY (tenant, webhook_id, notification_id)
    );
    CREATE INDEX IF NOT EXISTS deliveries_pending ON notifications_private.deliveries (tenant, webhook_id, position)
        WHERE state = 'pending';
    CREATE INDEX IF NOT EXISTS deliveries_latest ON notifications_private.deliveries (tenant, webhook_id, position);
    CREATE TABLE IF NOT EXISTS notifications_private.queued (
        one      boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
        position bigint  NOT NULL
    );
    -- No webhook is older than this table: what was sent before it was made is carried nowhere.
    INSERT INTO notifications_private.queued (position) SELECT size FROM ledger.head ON CONFLICT DO NOTHING;
"""

# One statement, so one moment: what the read models have reached, and the webhooks as they stood when each notification was sent.
_FILL: Final = """
    WITH reached AS (SELECT position FROM projections.positions WHERE name = {projection}),
    added AS (
        INSERT INTO notifications_private.deliveries (tenant, webhook_id, notification_id, position)
        SELECT e.tenant, w.id, n.id, e.position
        FROM notifications_private.queued q CROSS JOIN reached r
        JOIN ledger.events e ON e.position > q.position AND e.position <= r.position AND e.type = {sent}
        JOIN {notifications} n ON n.tenant = e.tenant AND n.id = split_part(e.stream, ':', 2) AND n.to_position = {open}
        JOIN {webhooks} w ON w.tenant = e.tenant AND w.from_position <= e.position AND w.to_position > e.position
        WHERE w.doc->>'status' = 'active' AND (w.doc->'kinds' = '[]' OR w.doc->'kinds' ? (n.doc->>'kind'))
        ON CONFLICT DO NOTHING
    )
    UPDATE notifications_private.queued q SET position = r.position FROM reached r WHERE r.position > q.position
"""
_DROP: Final = """
    WITH removed AS (SELECT tenant, id FROM {webhooks} WHERE to_position = {open} AND doc->>'status' = 'removed'),
    forgotten AS (DELETE FROM notifications_private.secrets s USING removed r WHERE s.tenant = r.tenant AND s.webhook_id = r.id)
    UPDATE notifications_private.deliveries d SET state = 'dropped', settled_at = now() FROM removed r
    WHERE d.state = 'pending' AND d.tenant = r.tenant AND d.webhook_id = r.id
"""
# One at a time to each receiver, however many processes deliver: one that hangs holds up nobody else.
_CLAIM: Final = """
    WITH foremost AS (
        SELECT DISTINCT ON (d.tenant, d.webhook_id) d.tenant, d.webhook_id, d.notification_id
        FROM notifications_private.deliveries d
        WHERE d.state = 'pending' AND d.due_at <= now() AND NOT EXISTS (
            SELECT FROM notifications_private.deliveries o
            WHERE o.state = 'pending' AND o.tenant = d.tenant AND o.webhook_id = d.webhook_id AND o.claimed_until > now()
        )
        ORDER BY d.tenant, d.webhook_id, d.position
    ), mine AS (
        SELECT d.tenant, d.webhook_id, d.notification_id FROM notifications_private.deliveries d
        JOIN foremost f USING (tenant, webhook_id, notification_id)
        WHERE d.state = 'pending' AND d.claimed_until <= now()
        LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE notifications_private.deliveries d SET tries = d.tries + 1, claimed_until = now() + make_interval(secs => %(claim)s)
    FROM mine m
    JOIN {webhooks} w ON w.tenant = m.tenant AND w.id = m.webhook_id AND w.to_position = {open} AND w.doc->>'status' = 'active'
    JOIN {notifications} n ON n.tenant = m.tenant AND n.id = m.notification_id AND n.to_position = {open}
    LEFT JOIN notifications_private.secrets s ON s.tenant = m.tenant AND s.webhook_id = m.webhook_id
    WHERE d.tenant = m.tenant AND d.webhook_id = m.webhook_id AND d.notification_id = m.notification_id
    RETURNING d.tenant, d.webhook_id, d.notification_id, d.tries, w.doc->>'url', w.doc->>'secret_sha256', s.sealed, s.kek, n.doc::text
"""
_SETTLE: Final = """
    UPDATE notifications_private.deliveries
    SET state = %(state)s, problem = %(problem)s, claimed_until = '-infinity', due_at = now() + make_interval(secs => %(wait)s),
        settled_at = CASE WHEN %(state)s = 'pending' THEN NULL ELSE now() END
    WHERE tenant = %(tenant)s AND webhook_id = %(webhook_id)s AND notification_id = %(notification_id)s AND state = 'pending'
"""
_LATEST: Final = """
    SELECT notification_id, position, state, tries, due_at, settled_at, problem FROM notifications_private.deliveries
    WHERE tenant = %(tenant)s AND webhook_id = %(webhook_id)s AND (%(state)s::text IS NULL OR state = %(state)s)
    ORDER BY position DESC LIMIT %(limit)s
"""
_KEEP: Final = """
    INSERT INTO notifications_private.secrets (tenant, webhook_id, sealed, kek)
    VALUES (%(tenant)s, %(webhook_id)s, %(sealed)s, %(kek)s) ON CONFLICT DO NOTHING
"""
_SEALED_OTHERWISE: Final = "SELECT tenant, webhook_id, sealed, kek FROM notifications_private.secrets WHERE kek <> %(kek)s"
_RESEAL: Final = """
    UPDATE notifications_private.secrets SET sealed = %(again)s, kek = %(kek)s
    WHERE tenant = %(tenant)s AND webhook_id = %(webhook_id)s AND sealed = %(sealed)s
"""
_COUNT: Final = "SELECT kek, count(*) FROM notifications_private.secrets GROUP BY kek"
_KEPT: Final = "SELECT sealed, kek FROM notifications_private.secrets WHERE tenant = %(tenant)s AND webhook_id = %(webhook_id)s"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notification on its way to one webhook, taken up for the `tries`-th time."""

    tenant: str
    webhook_id: str
    notification_id: str
    tries: int
    url: str
    message: Message
    secret: str | None = field(repr=False)
    """None when the secret kept is not the one whose digest is on record."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a delivery stands; a pending one is due at `due_at`, and `problem` says how the last try ended."""

    notification_id: str
    position: int
    state: State
    tries: int
    due_at: datetime
    settled_at: datetime | None
    problem: str | None


class WebhookStore:
    """The secrets of webhooks, and the queue of deliveries. Several processes may share it."""

    def __init__(self, dsn: str, keks: KeyEncryptionKeys) -> None:
        self._keks = keks
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn, open=False, min_size=1, max_size=4, timeout=10, kwargs={"autocommit": True}
        )

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10)
        await self._query(SCHEMA)

    async def close(self) -> None:
        await self._pool.close()

    async def secret(self, tenant: str, webhook_id: str) -> str:
        """The webhook's secret; made when it has none, so that a command asked for again is the same command."""
        bound_to = _bound(tenant, webhook_id)
        fresh = _SECRET_PREFIX + base64.b64encode(os.urandom(_SECRET_BYTES)).decode()
        whose = {"tenant": tenant, "webhook_id": webhook_id}
        kek = self._keks.current
        await self._query(_KEEP, {**whose, "sealed": seal_bytes(fresh.encode(), bound_to, self._keks.key(kek)), "kek": kek})
        ((sealed, kek),) = await self._query(_KEPT, whose)
        return open_bytes(sealed, bound_to, self._keks.key(kek)).decode()

    async def reseal(self, kek: str) -> None:
        """Seals every secret under this key-encryption key; one that does not open stays as it is. Raises KekMissing."""
        for tenant, webhook_id, sealed, old in await self._query(_SEALED_OTHERWISE, {"kek": kek}):
            bound_to = _bound(tenant, webhook_id)
            with suppress(VaultError):
                again = seal_bytes(open_bytes(sealed, bound_to, self._keks.key(old)), bound_to, self._keks.key(kek))
                whose = {"tenant": tenant, "webhook_id": webhook_id, "sealed": sealed}
                await self._query(_RESEAL, {**whose, "again": again, "kek": kek})

    async def counts(self) -> dict[str, int]:
        """How many secrets are sealed under each key-encryption key; '' is the first one."""
        return dict(await self._query(_COUNT))

    async def fill(self) -> None:
        """Queues what was sent since the last time for the webhooks there were then, and drops what removed ones still waited for."""
        await self._query(_FILL)
        await self._query(_DROP)

    async def claim(self, limit: int) -> list[Delivery]:
        """Takes up to `limit` due deliveries, at most one per webhook; none that another process has taken."""
        rows = await self._query(_CLAIM, {"limit": limit, "claim": CLAIM_SECONDS})
        return [self._delivery(*row) for row in rows]

    def _delivery(
        self,
        tenant: str,
        webhook_id: str,
        notification_id: str,
        tries: int,
        url: str,
        secret_sha256: str,
        sealed: bytes | None,
        kek: str | None,
        document: str,
    ) -> Delivery:
        try:
            secret = open_bytes(sealed or b"", _bound(tenant, webhook_id), self._keks.key(kek or "")).decode()
        except (VaultError, KekMissing):
            secret = ""
        known = hmac.compare_digest(secret_digest(secret), secret_sha256)
        message = Message(notification_id, _body(tenant, orjson.loads(document)))
        return Delivery(tenant, webhook_id, notification_id, tries, url, message, secret if known else None)

    async def settle(self, delivery: Delivery, state: State, problem: str | None = None, wait_seconds: float = 0) -> None:
        """Puts on record how a try ended; `pending` is due again after `wait_seconds`."""
        whose = {"tenant": delivery.tenant, "webhook_id": delivery.webhook_id, "notification_id": delivery.notification_id}
        await self._query(_SETTLE, {**whose, "state": state, "problem": problem, "wait": wait_seconds})

    async def latest(self, tenant: str, webhook_id: str, limit: int, state: State | None = None) -> list[Standing]:
        """The latest deliveries to a webhook, newest first."""
        asked = {"tenant": tenant, "webhook_id": webhook_id, "limit": limit, "state": state}
        return [Standing(*row) for row in await self._query(_LATEST, asked)]

    async def _query(self, query: LiteralString, arguments: Mapping[str, Any] | None = None) -> Sequence[TupleRow]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_named(query), arguments)
                return await cursor.fetchall() if cursor.description else []
        except (OperationalError, PoolTimeout) as error:
            await self._pool.check()
            raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error


def _named(query: LiteralString) -> sql.Composed:
    schema = schema_name(PROJECTION.name, LIVE)
    return sql.SQL(query).format(
        projection=sql.Literal(PROJECTION.name),
        notifications=sql.Identifier(schema, notifications.name),
        webhooks=sql.Identifier(schema, webhooks.name),
        sent=sql.Literal(NotificationSent.event_name),
        open=sql.Literal(OPEN),
    )


def _bound(tenant: str, webhook_id: str) -> bytes:
    return orjson.dumps(("webhook", "secret", tenant, webhook_id))


def _body(tenant: str, row: JsonObject) -> bytes:
    """The same bytes at every try: whether it was read meanwhile is no part of them."""
    told = {name: value for name, value in row.items() if name not in {"status", "read_at"}}
    data = {"tenant": tenant, **told}
    return orjson.dumps({"type": f"notification.{row['kind']}", "timestamp": row["sent_at"], "data": data}, option=orjson.OPT_SORT_KEYS)
