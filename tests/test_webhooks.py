"""Webhooks: every notification reaches its receivers at least once, signed, whoever fails meanwhile - and goes nowhere else."""

import asyncio
import base64
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.app import create_app
from api.services import open_services
from commands.notifications import MarkRead, RemoveWebhook
from infra.demo import ensure_demo
from infra.rebuild import rebuild
from infra.sealed_secrets import secret_digest
from infra.settings import Settings
from infra.webhooks import Message, NotDelivered, signature
from projections.notifications import PROJECTION
from streams.notifications import Patience
from tests.support.kernel import ANA, everything, quiet
from tests.support.receiver import Behaviour, Received, receiver, verified
from tests.support.webhooks import HASTE, Office, delivering, office_of, port, settled, until

pytestmark = pytest.mark.anyio
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = Message("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')


# -- one delivery


async def test_the_signature_is_that_of_the_published_example() -> None:
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(SECRET, MESSAGE.id, 1_614_265_330, MESSAGE.body) == expected


async def test_a_receiver_gets_the_message_signed() -> None:
    async with receiver() as siem, port() as webhooks:
        await webhooks.deliver(siem.url, SECRET, MESSAGE)
    (received,) = siem.received
    assert (received.id, received.body, received.headers["content-type"]) == (MESSAGE.id, MESSAGE.body, "application/json")
    assert received.headers["host"] == siem.url.split("/")[2]
    assert verified(received, SECRET) == {"test": 2432232314}
    with pytest.raises(AssertionError):
        verified(Received(received.headers, received.body + b" "), SECRET)


@pytest.mark.parametrize(("behaviour", "reason"), [(500, "answered 500"), (301, "answered 301"), (400, "answered 400")])
async def test_only_a_yes_counts(behaviour: Behaviour, reason: str) -> None:
    async with receiver(behaviour) as siem, port() as webhooks:
        with pytest.raises(NotDelivered, match=reason):
            await webhooks.deliver(siem.url, SECRET, MESSAGE)


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
async def test_a_receiver_that_takes_its_time_is_not_waited_for(behaviour: Behaviour) -> None:
    async with receiver(behaviour) as siem, port(answer_seconds=0.3) as webhooks:
        with pytest.raises(NotDelivered, match=r"no answer within 0\.3 s"):
            await webhooks.deliver(siem.url, SECRET, MESSAGE)
    assert len(siem.received) == 1


async def test_the_body_of_an_answer_is_not_read() -> None:
    async with receiver("endless") as siem, port() as webhooks:
        await webhooks.deliver(siem.url, SECRET, MESSAGE)


async def test_nobody_there_is_said() -> None:
    async with receiver() as siem:
        pass
    async with port() as webhooks:
        with pytest.raises(NotDelivered, match="ConnectError"):
            await webhooks.deliver(siem.url, SECRET, MESSAGE)


async def test_a_redirection_leads_nowhere() -> None:
    async with receiver() as elsewhere, receiver(elsewhere.url) as siem, port() as webhooks:
        with pytest.raises(NotDelivered, match="answered 307"):
            await webhooks.deliver(siem.url, SECRET, MESSAGE)
    assert elsewhere.received == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://169.254.169.254/latest/meta-data", "link-local"),
        ("https://2852039166/latest/meta-data", "2852039166 is 169.254.169.254: a link-local address"),
        ("https://0xa9.0xfe.0xa9.0xfe/", "link-local"),
        ("https://[::ffff:a9fe:a9fe]/", "link-local"),
        ("https://0/", "no address of a receiver"),
        ("http://10.255.255.1/", "http is good for this very machine alone"),
        ("https://nowhere.invalid/", "gaierror"),
    ],
)
async def test_where_a_name_leads_is_judged_at_the_delivery(url: str, reason: str) -> None:
    """A name that passed when the webhook was added may lead elsewhere by now; a number is a name to the resolver, too."""
    async with port() as webhooks:
        with pytest.raises(NotDelivered, match=reason):
            await webhooks.deliver(url, SECRET, MESSAGE)


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `name`, and a client's that trusts whoever issued it."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


async def test_https_checks_the_receivers_name_although_it_goes_to_an_address(tmp_path: Path) -> None:
    server, trusting = certified(tmp_path, "localhost")
    impostor, trusting_impostor = certified(tmp_path, "elsewhere.example.org")
    async with receiver(tls=server) as siem, receiver(tls=impostor) as other:
        async with port(tls=trusting) as webhooks:
            await webhooks.deliver(siem.url, SECRET, MESSAGE)
        async with port() as webhooks:
            with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
                await webhooks.deliver(siem.url, SECRET, MESSAGE)
        async with port(tls=trusting_impostor) as webhooks:
            with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
                await webhooks.deliver(other.url, SECRET, MESSAGE)
    assert (len(siem.received), other.received) == (1, [])


# -- the queue


@pytest.fixture
async def office(database_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    async with office_of(database_url, tmp_path) as opened:
        yield opened


async def test_a_notification_is_delivered_with_all_that_the_inbox_shows(office: Office) -> None:
    async with receiver() as siem, delivering(office.store):
        secret = await office.webhook("siem", siem.url)
        await office.tell("n1")
        await settled(office, "siem", "n1")
    (received,) = siem.received
    body = verified(received, secret)
    assert (received.id, body["type"]) == ("n1", "notification.message")
    assert {name: body["data"][name] for name in ("notification_id", "tenant", "recipient", "subject", "sent_by")} == {
        "notification_id": "n1",
        "tenant": "acme",
        "recipient": "usr-ana",
        "subject": "About n1",
        "sent_by": "usr-adm",
    }
    assert await office.states("siem") == {"n1": ("delivered", 1)}


async def test_a_receiver_that_fails_twice_gets_the_same_a_third_time(office: Office) -> None:
    async with receiver(500, 503, 204) as siem, delivering(office.store):
        secret = await office.webhook("siem", siem.url)
        await office.tell("n1")
        await until(lambda: siem.received)
        await office.do(MarkRead(notification_id="n1"), ANA)
        await settled(office, "siem", "n1")
    assert await office.states("siem") == {"n1": ("delivered", 3)}
    assert len({(received.id, received.body) for received in siem.received}) == 1, "also when it was read meanwhile"
    assert [verified(received, secret)["data"]["notification_id"] for received in siem.received] == ["n1"] * 3


async def test_a_receiver_that_hangs_is_given_up_and_holds_up_nobody(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    async with receiver("hang") as hanging, receiver() as siem, delivering(office.store, answer_seconds=0.5):
        await office.webhook("hanging", hanging.url)
        await office.webhook("siem", siem.url)
        for number in range(3):
            await office.tell(f"n{number}")
        await settled(office, "siem", "n0", "n1", "n2")
        with caplog.at_level(logging.WARNING, "aureus.webhooks"):
            await settled(office, "hanging", "n0")
    given_up = (await office.standing("hanging"))["n0"]
    assert (given_up.state, given_up.tries, given_up.problem) == ("failed", HASTE.tries, "no answer within 0.5 s")
    assert "n0 given up" in caplog.text
    assert hanging.at_once_max == 1, "one at a time to each receiver"


async def test_pauses_grow_up_to_a_bound_and_no_two_are_alike() -> None:
    patience = Patience(first_seconds=5, longest_seconds=1_000)
    for tries, expected in ((1, 5), (2, 20), (3, 80), (4, 320), (5, 1_000), (60, 1_000)):
        pauses = {patience.pause_seconds(tries) for _ in range(50)}
        assert 0.75 * expected <= min(pauses) < max(pauses) <= 1.25 * expected


async def test_what_a_killed_process_had_taken_up_is_delivered_by_another(office: Office) -> None:
    async with receiver() as siem:
        await office.webhook("siem", siem.url)
        await office.tell("n1")
        await office.store.fill()
        (lost,) = await office.store.claim(10)
        async with office.another_store() as other:
            assert await other.claim(10) == [], "as long as the first may be at work on it"
            await office.execute("UPDATE notifications_private.deliveries SET claimed_until = now()")
            async with delivering(other):
                await settled(office, "siem", "n1")
    assert [received.id for received in siem.received] == [lost.notification_id]
    assert await office.states("siem") == {"n1": ("delivered", 2)}


CONNECTIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def test_a_lost_database_delays_what_it_cannot_prevent(office: Office) -> None:
    async with receiver("hang", 204) as siem:
        await office.webhook("siem", siem.url)
        await office.tell("n1")
        async with delivering(office.store, answer_seconds=0.5):
            await until(lambda: siem.received)
            await office.execute(f"SELECT pg_terminate_backend(pid) FROM ({CONNECTIONS}) AS others")
            await office.execute("UPDATE notifications_private.deliveries SET claimed_until = '-infinity'")
            async with office.another_store() as afterwards:

                async def delivered() -> bool:
                    return [standing.state for standing in await afterwards.latest("acme", "siem", 10)] == ["delivered"]

                await until(delivered)
    assert len(siem.received) == 2


async def test_neither_a_restart_nor_a_rebuild_sends_anything_again(office: Office) -> None:
    async with receiver() as siem:
        await office.webhook("siem", siem.url)
        async with delivering(office.store):
            await office.tell("n1")
            await settled(office, "siem", "n1")
        swapped = await rebuild(office.dsn, PROJECTION, swap=True, accept_changes=True, progress=quiet)
        assert swapped.swapped
        async with office.another_store() as restarted, delivering(restarted):
            await office.tell("n2")
            await settled(office, "siem", "n2")
    assert [received.id for received in siem.received] == ["n1", "n2"]


async def test_what_was_sent_while_nobody_delivered_is_delivered_later(office: Office) -> None:
    async with receiver() as siem:
        await office.webhook("siem", siem.url)
        for number in range(3):
            await office.tell(f"n{number}")
        async with delivering(office.store):
            await settled(office, "siem", "n0", "n1", "n2")
    assert [received.id for received in siem.received] == ["n0", "n1", "n2"]


async def test_two_processes_deliver_everything_once(office: Office) -> None:
    names = [f"n{number:02d}" for number in range(12)]
    async with receiver() as siem, office.another_store() as other:
        await office.webhook("siem", siem.url)
        for name in names:
            await office.tell(name)
        async with delivering(office.store), delivering(other):
            await settled(office, "siem", *names)
    assert sorted(received.id for received in siem.received) == names


async def test_no_two_take_up_the_same(office: Office) -> None:
    await office.webhook("siem", "https://siem.example.org/")
    await office.tell("n1")
    await office.store.fill()
    async with office.another_store() as other:
        for _ in range(25):
            taken = await asyncio.gather(*(store.claim(1) for store in (office.store, other) * 3))
            assert sum(map(len, taken)) == 1
            await office.execute("UPDATE notifications_private.deliveries SET claimed_until = now()")


@pytest.mark.parametrize("loss", ["TRUNCATE notifications_private.deliveries", "DROP SCHEMA notifications_private CASCADE"])
async def test_what_was_sent_before_is_not_sent_again_though_the_queue_is_lost(office: Office, loss: str) -> None:
    await office.webhook("siem", "https://siem.example.org/")
    await office.tell("n1")
    await office.store.fill()
    assert await office.states("siem") == {"n1": ("pending", 0)}
    await office.execute(loss)
    async with office.another_store() as restarted:
        await restarted.fill()
    assert await office.states("siem") == {}


async def test_a_webhook_gets_what_was_sent_in_its_time_and_of_its_kinds(office: Office) -> None:
    async with receiver() as siem, receiver() as pager:
        await office.tell("before")
        await office.webhook("siem", siem.url)
        await office.webhook("pager", pager.url, "action_blocked")
        await office.tell("usual")
        await office.tell("urgent", "action_blocked")
        await office.do(RemoveWebhook(webhook_id="pager"))
        await office.tell("after", "action_blocked")
        async with delivering(office.store):
            await settled(office, "siem", "usual", "urgent", "after")
    assert [received.id for received in siem.received] == ["usual", "urgent", "after"]
    assert pager.received == []
    assert await office.states("pager") == {"urgent": ("dropped", 0)}, "it was removed before anybody delivered"


async def test_a_removed_webhooks_secret_is_destroyed(office: Office) -> None:
    secret = await office.webhook("siem", "https://siem.example.org/")
    assert await office.store.secret("acme", "siem") == secret
    await office.do(RemoveWebhook(webhook_id="siem"))
    await office.store.fill()
    assert await office.store.secret("acme", "siem") != secret


async def test_the_ledger_and_the_read_models_know_the_secrets_digest_alone(office: Office) -> None:
    secret = await office.webhook("siem", "https://siem.example.org/")
    bodies = b"".join(event.body for event in await office.ledger.entries(0, 1_000))
    told = repr([recorded.event for recorded in await everything(office.ledger)])
    async with await psycopg.AsyncConnection.connect(office.dsn) as connection:
        rows = await (await connection.execute("SELECT doc::text FROM read_notifications.webhooks")).fetchall()
        sealed = await (await connection.execute("SELECT sealed FROM notifications_private.secrets")).fetchall()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert len(key) == 32
    assert secret_digest(secret) in told
    assert secret_digest(secret) in str(rows)
    for kept in (bodies, told.encode(), str(rows).encode(), *(row[0] for row in sealed)):
        assert secret.encode() not in kept
        assert base64.b64encode(secret.encode()) not in kept
        assert key not in kept


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE notifications_private.secrets SET sealed = (SELECT sealed FROM notifications_private.secrets WHERE webhook_id = 'other')",
        "DELETE FROM notifications_private.secrets",
    ],
)
async def test_nothing_is_signed_with_a_secret_that_is_not_on_record(office: Office, tampering: str) -> None:
    async with receiver() as siem:
        await office.webhook("siem", siem.url)
        await office.store.secret("acme", "other")
        await office.execute(tampering)
        await office.tell("n1")
        async with delivering(office.store):
            await settled(office, "siem", "n1")
    assert siem.received == []
    assert (await office.standing("siem"))["n1"].problem == "the secret kept for it is not the one on record"


# -- over everything real


async def test_an_administrator_adds_a_webhook_and_sees_its_secret_once(tmp_path: Path, database_url: str) -> None:
    async with open_services(Settings(home=tmp_path, database_url=database_url)) as services, receiver() as siem:
        demo = await ensure_demo(services)
        await services.wait_for(demo.position)
        app = create_app(services=services)
        app.state.services = services
        tokens = {}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as http:
            for login in demo.logins:
                answer = await http.post("/v1/auth/token", json={"login": login.login, "password": login.password})
                tokens[login.login] = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            wanted = {"webhook_id": "siem", "url": siem.url}
            assert (await http.post("/v1/webhooks", json=wanted, headers=tokens["analyst"])).status_code == 403
            keyed = {**tokens["admin"], "Idempotency-Key": "k1"}
            added = await http.post("/v1/webhooks", json=wanted, headers=keyed)
            assert added.status_code == 201, added.text
            secret = added.json()["secret"]
            repeated = await http.post("/v1/webhooks", json=wanted, headers=keyed)
            assert (repeated.status_code, repeated.json()["secret"]) == (201, secret), "the answer to that request, lost on its way"
            again = await http.post("/v1/webhooks", json=wanted, headers=tokens["admin"])
            assert (again.status_code, again.json()["error"]["code"]) == (409, "webhook_exists")
            await services.wait_for(added.json()["position"])
            note = {"notification_id": "n1", "recipient": demo.logins[0].actor, "subject": "Hello"}
            assert (await http.post("/v1/notifications", json=note, headers=tokens["admin"])).status_code == 201
            await until(lambda: siem.received)
            assert verified(siem.received[0], secret)["data"]["notification_id"] == "n1"

            async def told() -> list[Any]:
                listed = await http.get("/v1/webhooks/siem/deliveries", params={"state": "delivered"}, headers=tokens["auditor"])
                assert secret not in listed.text
                return cast("list[Any]", listed.json()["items"])

            await until(told)
            assert (await http.get("/v1/webhooks/siem/deliveries", headers=tokens["viewer"])).status_code == 403
            assert (await http.get("/v1/webhooks/none/deliveries", headers=tokens["admin"])).status_code == 404
            shown = await http.get("/v1/webhooks/siem", headers=tokens["auditor"])
            assert (shown.json()["url"], secret in shown.text) == (siem.url, False)
