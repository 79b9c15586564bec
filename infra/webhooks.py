"""Webhooks beside the ledger: their secrets, the queue of what is still to be delivered, and one delivery over HTTP.

The queue is a table and no stream of events: a delivery is tried again until it succeeds, at a pace and so often that it would
drown what governance has to say, and to build it again from the ledger would send everything again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final, Literal, LiteralString, Protocol
from urllib.parse import urlsplit

import httpx
import orjson
from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.kernel import JsonObject, timestamp
from domain.ledger import LedgerUnavailable
from domain.notifications import NotificationSent, RedeliveryOrdered, refused_address
from infra.key_encryption import KeyEncryptionKeys
from infra.read_tables import LIVE, schema_name
from infra.sealed_secrets import PREFIX, SealedSecrets, secret_digest
from projections.engine import OPEN
from projections.notifications import PROJECTION, notifications, redeliveries, webhooks

ANSWER_SECONDS: Final = 10.0
"""How long a receiver may take, from the first look at its name to the head of its answer."""
CLAIM_SECONDS: Final = 60
"""How long a delivery belongs to whoever took it up; one whose process died is due again then."""
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

    async def deliver(self, url: str, secret: str, message: Message, old_secret: str | None = None) -> None:
        """Returns when the receiver has taken it, whichever secret it knows. Raises NotDelivered."""
        ...


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a delivery (Standard Webhooks): HMAC-SHA256 over id, time and body, in base64."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


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

    async def deliver(self, url: str, secret: str, message: Message, old_secret: str | None = None) -> None:
        timestamp = int(self._now())
        secrets = [secret] if old_secret is None else [secret, old_secret]
        headers = {
            "host": urlsplit(url).netloc,
            "content-type": "application/json",
            "user-agent": "aureus-webhooks",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signature(each, message.id, timestamp, message.body) for each in secrets),
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
    ), again AS (
        UPDATE notifications_private.deliveries d
        SET state = 'pending', tries = 0, due_at = now(), claimed_until = '-infinity', settled_at = NULL
        FROM notifications_private.queued q CROSS JOIN reached r
        JOIN ledger.events e ON e.position > q.position AND e.position <= r.position AND e.type = {redelivered}
        JOIN {redeliveries} o ON o.tenant = e.tenant AND o.from_position = e.position
        WHERE d.tenant = o.tenant AND d.webhook_id = o.doc->>'webhook_id' AND CASE
            WHEN o.doc->'notification_ids' <> '[]' THEN d.state <> 'pending' AND o.doc->'notification_ids' ? d.notification_id
            ELSE d.state = 'failed' AND coalesce(d.settled_at >= (o.doc->>'since')::timestamptz, true)
        END
    )
    UPDATE notifications_private.queued q SET position = r.position FROM reached r WHERE r.position > q.position
"""
_DROP: Final = """
    WITH removed AS (SELECT tenant, id FROM {webhooks} WHERE to_position = {open} AND doc->>'status' = 'removed'),
    forgotten AS (
        DELETE FROM notifications_private.secrets s USING removed r WHERE s.tenant = r.tenant AND split_part(s.webhook_id, '#', 1) = r.id
    )
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
    WHERE d.tenant = m.tenant AND d.webhook_id = m.webhook_id AND d.notification_id = m.notification_id
    RETURNING d.tenant, d.webhook_id, d.notification_id, d.tries, w.doc::text, n.doc::text
"""
_SETTLE: Final = """
    UPDATE notifications_private.deliveries
    SET state = %(state)s, problem = %(problem)s, claimed_until = '-infinity', due_at = now() + make_interval(secs => %(wait)s),
        settled_at = CASE WHEN %(state)s = 'pending' THEN NULL ELSE now() END
    WHERE tenant = %(tenant)s AND webhook_id = %(webhook_id)s AND notification_id = %(notification_id)s AND state = 'pending'
"""
_ONE: Final = """
    SELECT d.notification_id, d.position, d.state, d.tries, d.due_at, d.settled_at, d.problem, n.doc::text
    FROM notifications_private.deliveries d
    JOIN {notifications} n ON n.tenant = d.tenant AND n.id = d.notification_id AND n.to_position = {open}
    WHERE d.tenant = %(tenant)s AND d.webhook_id = %(webhook_id)s AND d.notification_id = %(notification_id)s
"""
_LATEST: Final = """
    SELECT notification_id, position, state, tries, due_at, settled_at, problem FROM notifications_private.deliveries
    WHERE tenant = %(tenant)s AND webhook_id = %(webhook_id)s AND (%(state)s::text IS NULL OR state = %(state)s)
    ORDER BY position DESC LIMIT %(limit)s
"""


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
    old_secret: str | None = field(default=None, repr=False)
    """The one before, while both are used."""


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
        self.secrets = SealedSecrets(keks, self._query, "notifications_private", "webhook_id", "webhook")
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn, open=False, min_size=1, max_size=4, timeout=10, kwargs={"autocommit": True}
        )

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10)
        await self._query(SCHEMA)

    async def close(self) -> None:
        await self._pool.close()

    async def secret(self, tenant: str, webhook_id: str, number: int = 0) -> str:
        """The webhook's secret of this number; made when it has none, so that a command asked for again is the same command."""
        return await self.secrets.made(tenant, webhook_id, number)

    async def fill(self) -> None:
        """Queues what was sent since the last time for the webhooks there were then, and drops what removed ones still waited for."""
        await self._query(_FILL)
        await self._query(_DROP)

    async def claim(self, limit: int) -> list[Delivery]:
        """Takes up to `limit` due deliveries, at most one per webhook; none that another process has taken."""
        rows = await self._query(_CLAIM, {"limit": limit, "claim": CLAIM_SECONDS})
        return [await self._delivery(*row) for row in rows]

    async def _delivery(self, tenant: str, webhook_id: str, notification_id: str, tries: int, webhook: str, document: str) -> Delivery:
        row = orjson.loads(webhook)
        secret = await self._secret_on_record(tenant, webhook_id, row["secrets"] - 1, row["secret_sha256"])
        both = row["old_secret_until"] is not None and timestamp(datetime.now(UTC)) < row["old_secret_until"]
        old = await self._secret_on_record(tenant, webhook_id, row["secrets"] - 2, row["old_secret_sha256"]) if both else None
        message = Message(notification_id, _body(tenant, orjson.loads(document)))
        return Delivery(tenant, webhook_id, notification_id, tries, row["url"], message, secret, old)

    async def _secret_on_record(self, tenant: str, webhook_id: str, number: int, digest: str) -> str | None:
        """A secret of the webhook, as long as what is kept is what was put on record."""
        kept = await self.secrets.kept(tenant, webhook_id, number)
        return kept if kept is not None and hmac.compare_digest(secret_digest(kept), digest) else None

    async def settle(self, delivery: Delivery, state: State, problem: str | None = None, wait_seconds: float = 0) -> None:
        """Puts on record how a try ended; `pending` is due again after `wait_seconds`."""
        whose = {"tenant": delivery.tenant, "webhook_id": delivery.webhook_id, "notification_id": delivery.notification_id}
        await self._query(_SETTLE, {**whose, "state": state, "problem": problem, "wait": wait_seconds})

    async def message(self, tenant: str, webhook_id: str, notification_id: str) -> tuple[Standing, Message] | None:
        """How one delivery stands, and what is carried there; None when there is none."""
        rows = await self._query(_ONE, {"tenant": tenant, "webhook_id": webhook_id, "notification_id": notification_id})
        if not rows:
            return None
        *standing, document = rows[0]
        return Standing(*standing), Message(notification_id, _body(tenant, orjson.loads(document)))

    async def latest(self, tenant: str, webhook_id: str, limit: int, state: State | None = None) -> list[Standing]:
        """The latest deliveries to a webhook, newest first."""
        asked = {"tenant": tenant, "webhook_id": webhook_id, "limit": limit, "state": state}
        return [Standing(*row) for row in await self._query(_LATEST, asked)]

    async def _query(self, query: LiteralString | sql.Composed, arguments: Mapping[str, Any] | None = None) -> Sequence[TupleRow]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(query if isinstance(query, sql.Composed) else _named(query), arguments)
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
        redeliveries=sql.Identifier(schema, redeliveries.name),
        sent=sql.Literal(NotificationSent.event_name),
        redelivered=sql.Literal(RedeliveryOrdered.event_name),
        open=sql.Literal(OPEN),
    )


def _body(tenant: str, row: JsonObject) -> bytes:
    """The same bytes at every try: whether it was read meanwhile is no part of them."""
    told = {name: value for name, value in row.items() if name not in {"status", "read_at"}}
    data = {"tenant": tenant, **told}
    return orjson.dumps({"type": f"notification.{row['kind']}", "timestamp": row["sent_at"], "data": data}, option=orjson.OPT_SORT_KEYS)
