"""Notifications: who is told of what was refused and of what waits for them, and that an inbox is its owner's alone."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given as holds_for
from hypothesis import strategies as st
from pydantic import ValidationError

from api.app import create_app
from api.services import Services, open_services, projections
from commands.access import RegisterActor, SuspendActor
from commands.budgets import OpenBudget, ReserveFunds
from commands.catalog import AssignOwner, RegisterDataset, RemoveOwner
from commands.notifications import NOTIFICATIONS, WEBHOOKS, AddWebhook, MarkRead, Notify, RemoveWebhook
from commands.outcome import Outcome
from domain.approvals import ApprovalEscalated
from domain.kernel import Asker, Command, Event, Recorded
from domain.ledger import Append, StreamWrite
from domain.notifications import NotificationRead, NotificationSent, WebhookAdded, WebhookRemoved, refused_address
from domain.values import ActorKind, Role, uuid7
from infra.demo import Demo, ensure_demo
from infra.keystore import FileKeystore
from infra.read_queries import Reads
from infra.settings import Settings
from streams.notifications import REACTIONS
from streams.reactions import ACTOR, asker
from streams.reactor import Rows
from streams.telling import TOLD_MAX, UNREAD_MAX
from tests.given import ADMIN, ANALYST, given
from tests.support.kernel import ADM, ANA, Process, ask, catch_up, everything, policies, processes

SENT = NotificationSent(notification_id="n1", recipient=ANALYST.actor, kind="message", subject="Hello", text="")
NOTIFY = Notify(notification_id="n1", recipient=ANALYST.actor, subject="Hello")
READ = NotificationRead(notification_id="n1")
MARK = MarkRead(notification_id="n1")
SHA = "ab" * 32
ADD = AddWebhook(webhook_id="siem", url="https://siem.example.org/aureus", secret_sha256=SHA)
ADDED = WebhookAdded(webhook_id="siem", url=ADD.url, secret_sha256=SHA)
REMOVED = WebhookRemoved(webhook_id="siem")


# -- decisions


def test_a_notification_is_sent_once() -> None:
    given(NOTIFICATIONS).by(ADMIN).when(NOTIFY).then(SENT)
    given(NOTIFICATIONS, SENT).by(ADMIN).when(NOTIFY.model_copy(update={"subject": "Hello again"})).then()


@pytest.mark.parametrize("change", [{"recipient": "usr-ben"}, {"kind": "action_blocked"}])
def test_an_id_stands_for_one_notification(change: dict[str, str]) -> None:
    given(NOTIFICATIONS, SENT).by(ADMIN).when(NOTIFY.model_copy(update=change)).refused("notification_exists", field="notification_id")


def test_its_recipient_reads_it_once() -> None:
    given(NOTIFICATIONS, SENT).when(MARK).then(READ)
    given(NOTIFICATIONS, SENT, READ).when(MARK).then()


def test_nobody_reads_what_was_sent_to_another() -> None:
    given(NOTIFICATIONS, SENT).by(ADMIN).when(MARK).refused("notification_of_another", field="notification_id")


def test_what_was_not_sent_is_not_read() -> None:
    given(NOTIFICATIONS).when(MARK).refused("notification_not_found", field="notification_id")


def test_a_webhook_comes_once_and_goes_for_good() -> None:
    given(WEBHOOKS).by(ADMIN).when(ADD).then(ADDED)
    given(WEBHOOKS, ADDED).by(ADMIN).when(RemoveWebhook(webhook_id="siem")).then(REMOVED)
    given(WEBHOOKS, ADDED, REMOVED).by(ADMIN).when(RemoveWebhook(webhook_id="siem")).then()
    given(WEBHOOKS, ADDED, REMOVED).by(ADMIN).when(ADD).refused("webhook_exists", field="webhook_id")
    given(WEBHOOKS).by(ADMIN).when(RemoveWebhook(webhook_id="siem")).refused("webhook_not_found", field="webhook_id")


@pytest.mark.parametrize(
    "url", ["https://siem.example.org", "https://10.1.2.3:8443/x", "http://localhost:9000/", "http://127.0.0.1", "http://[::1]:80/"]
)
def test_a_webhook_may_be_at(url: str) -> None:
    given(WEBHOOKS).by(ADMIN).when(ADD.model_copy(update={"url": url})).then(ADDED.model_copy(update={"url": url}))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://siem.example.org/", "webhook_url_insecure"),
        ("http://10.1.2.3/", "webhook_url_insecure"),
        ("http://localhost.example.org/", "webhook_url_insecure"),
        ("https://ana:secret@siem.example.org/", "webhook_url_not_plain"),
        ("https://localhost@siem.example.org/", "webhook_url_not_plain"),
        ("https://siem.example.org/?token=secret", "webhook_url_not_plain"),
        ("https://siem.example.org/#part", "webhook_url_not_plain"),
        ("https://169.254.169.254/latest/meta-data", "webhook_address_refused"),
        ("https://[::ffff:169.254.169.254]/", "webhook_address_refused"),
        ("https://[fd00:ec2::254]/", "webhook_address_refused"),
        ("https://0.0.0.0/", "webhook_address_refused"),
    ],
)
def test_a_webhook_may_not_be_at(url: str, code: str) -> None:
    given(WEBHOOKS).by(ADMIN).when(ADD.model_copy(update={"url": url})).refused(code, field="url")


@pytest.mark.parametrize(
    "url", ["ftp://example.org/", "https://", "https:///x", "https://exa mple.org/", "https://[::1", "https://x:99999/", "https://x:0/"]
)
def test_what_is_no_address_is_not_even_asked(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        AddWebhook(webhook_id="siem", url=url, secret_sha256=SHA)


TREACHEROUS = ["169.254.0.0/16", "fe80::/10", "0.0.0.0/8", "100.64.0.0/10", "224.0.0.0/4", "ff00::/8", "64:ff9b::/96", "240.0.0.0/4"]


@holds_for(st.one_of(*(st.ip_addresses(network=network) for network in TREACHEROUS)))
def test_nothing_is_delivered_to_treacherous_addresses_under_any_name(address: Any) -> None:
    assert refused_address(address)
    if address.version == 4:
        assert refused_address(ip_address(f"::ffff:{address}"))


@pytest.mark.parametrize("network", ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "192.168.0.0/16", "8.8.8.0/24", "2001:4860::/32"])
def test_ordinary_receivers_can_be_reached(network: str) -> None:
    assert refused_address(ip_network(network)[0]) is None


# -- who is told


class Bank:
    """Actors and datasets with their owners, and what the reactions make of what happens to them."""

    def __init__(self, dsn: str, process: Process, rows: Rows) -> None:
        self._dsn, self._process, self._rows = dsn, process, rows

    async def do(self, command: Command, by: Asker = ADM) -> Outcome:
        """One command, as the read models know of it already."""
        outcome = await self._process.path.handle(ask(command, by))
        await catch_up(self._dsn, self._process.ledger)
        return outcome

    async def prepare(self, command: Command) -> None:
        """One command of which nobody needs to know yet."""
        outcome = await self._process.path.handle(ask(command, ADM))
        assert outcome.outcome == "allowed", outcome.message

    async def actor(self, actor_id: str, role: Role = Role.ANALYST, owner: str | None = None) -> Asker:
        kind = {"usr": ActorKind.PERSON, "agt": ActorKind.AGENT, "svc": ActorKind.SERVICE}[actor_id[:3]]
        await self.prepare(RegisterActor(actor_id=actor_id, kind=kind, granted_roles=(role,), owner=owner))
        return Asker(actor_id, "acme", frozenset({role}), kind, owner)

    async def dataset(self, dataset_id: str, *owners: str) -> None:
        profile = {"name": dataset_id, "domain": "sales", "pii_level": "none", "jurisdiction": "EU"}
        await self.prepare(RegisterDataset.model_validate({"dataset_id": dataset_id, **profile}))
        for owner in owners:
            await self.prepare(AssignOwner(dataset_id=dataset_id, owner_id=owner))

    async def told(self) -> list[Notify]:
        """What the reactions make of the last command's events."""
        happened = await everything(self._process.ledger)
        return [notice for recorded in happened if recorded.causation == happened[-1].causation for notice in await self._notices(recorded)]

    async def made_of(self, event: Event, stream: str) -> list[Notify]:
        """What the reactions make of an event."""
        await self._process.ledger.append(Append("acme", ACTOR, (StreamWrite(stream, 1, (event,)),), uuid7()))
        await catch_up(self._dsn, self._process.ledger)
        return await self._notices((await everything(self._process.ledger))[-1])

    async def _notices(self, recorded: Recorded[Any]) -> list[Notify]:
        reacting = [reaction for reaction in REACTIONS if type(recorded.event) in reaction.on]
        asked = [command for reaction in reacting for command in await reaction.react(recorded, self._rows)]
        assert all(isinstance(command, Notify) for command in asked)
        return asked  # type: ignore[return-value]


@pytest.fixture
async def bank(database_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    keystore, reads = FileKeystore.open(tmp_path / "keys"), Reads(database_url, projections())
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 1) as (process,):
        await catch_up(database_url, process.ledger)
        await reads.open()
        yield Bank(database_url, process, Rows(reads))
        await reads.close()


DISOWN = RemoveOwner(dataset_id="crm", owner_id="usr-own")
"""Neither an agent nor a viewer holds a role to do that."""


@pytest.mark.anyio
async def test_what_an_agent_is_refused_is_told_to_its_owner_and_to_the_owners_of_the_dataset(bank: Bank) -> None:
    for person in ("usr-own", "usr-two", "usr-three"):
        await bank.actor(person)
    await bank.dataset("crm", "usr-own", "usr-two", "a-team")
    agent = await bank.actor("agt-bot", Role.AGENT, "usr-own")
    outcome = await bank.do(DISOWN, agent)
    notices = await bank.told()
    assert [notice.recipient for notice in notices] == ["usr-own", "usr-two"]
    assert {(notice.kind, notice.about, notice.action_id, notice.text) for notice in notices} == {
        ("action_blocked", "dataset:crm", outcome.action_id, outcome.message)
    }
    assert notices[0].subject == "agt-bot was refused catalog.remove_owner (role_missing)"


@pytest.mark.anyio
async def test_nobody_is_told_of_their_own_refusal(bank: Bank) -> None:
    owner, other = await bank.actor("usr-own", Role.VIEWER), await bank.actor("usr-two", Role.VIEWER)
    await bank.dataset("crm", "usr-own", "usr-two")
    await bank.do(DISOWN, owner)
    assert [notice.recipient for notice in await bank.told()] == ["usr-two"]
    await bank.do(DISOWN, other)
    assert [notice.recipient for notice in await bank.told()] == ["usr-own"]


@pytest.mark.anyio
async def test_what_has_no_owner_is_told_to_nobody(bank: Bank) -> None:
    person = await bank.actor("usr-own")
    outcome = await bank.do(ReserveFunds(budget_id="lake", amount_minor=1), person)
    assert (outcome.outcome, await bank.told()) == ("blocked", [])


@pytest.mark.anyio
async def test_what_the_reactions_are_refused_makes_no_further_notification(bank: Bank) -> None:
    await bank.actor("usr-own")
    await bank.dataset("crm", "usr-own")
    without_role = Asker(ACTOR, "acme", frozenset({Role.VIEWER}), ActorKind.SERVICE, "usr-own")
    assert ((await bank.do(DISOWN, without_role)).code, await bank.told()) == ("role_missing", [])


@pytest.mark.anyio
async def test_the_same_refusal_is_told_once_an_hour(bank: Bank) -> None:
    await bank.actor("usr-own")
    agent = await bank.actor("agt-bot", Role.AGENT, "usr-own")
    await bank.do(DISOWN, agent)
    first = await bank.told()
    await bank.do(DISOWN, agent)
    (repeated,) = await bank.told()
    assert repeated.notification_id == first[0].notification_id, "until the first is known, the second is the same one"
    sent = await bank.do(first[0], asker("acme"))
    assert [event["type"] for event in sent.events] == ["notifications.notification_sent"]
    assert (await bank.do(repeated, asker("acme"))).events == ()
    await bank.do(DISOWN, agent)
    assert await bank.told() == []
    await bank.do(DISOWN.model_copy(update={"dataset_id": "erp"}), agent)
    assert len(await bank.told()) == 1, "another dataset is other news"


@pytest.mark.anyio
async def test_who_does_not_read_is_told_no_more_until_they_do(bank: Bank) -> None:
    owner, agent = await bank.actor("usr-own"), await bank.actor("agt-bot", Role.AGENT, "usr-own")
    for number in range(UNREAD_MAX):
        await bank.prepare(Notify(notification_id=f"n{number}", recipient="usr-own", kind="action_blocked", subject="Refused"))
    await bank.do(DISOWN, agent)
    assert await bank.told() == []
    await bank.do(MarkRead(notification_id="n0"), owner)
    await bank.do(DISOWN, agent)
    assert [notice.recipient for notice in await bank.told()] == ["usr-own"]


IN_FRANCS = OpenBudget(budget_id="alps", label="Alps", currency="CHF", limit_minor=1_000)
RESERVE = ReserveFunds(budget_id="alps", amount_minor=5)
"""Takes an approver, by the stand-in policies."""


@pytest.mark.anyio
async def test_who_may_approve_is_told_but_for_the_requester_and_their_owner(bank: Bank) -> None:
    await bank.prepare(IN_FRANCS)
    for person in ("usr-app1", "usr-app2", "usr-app3", "usr-gone"):
        await bank.actor(person, Role.APPROVER)
    await bank.actor("usr-ana")
    await bank.prepare(SuspendActor(actor_id="usr-gone"))
    agent = await bank.actor("agt-bot", Role.AGENT, "usr-app3")
    parked = await bank.do(RESERVE, agent)
    notices = await bank.told()
    assert [notice.recipient for notice in notices] == ["usr-app1", "usr-app2"]
    assert {(notice.kind, notice.about, notice.action_id) for notice in notices} == {
        ("approval_requested", f"approval:{parked.action_id}", parked.action_id)
    }
    assert notices[0].subject == "agt-bot asks for approval: budgets.reserve_funds"


@pytest.mark.anyio
async def test_no_more_than_a_bounded_number_of_approvers_is_told(bank: Bank) -> None:
    await bank.prepare(IN_FRANCS)
    for number in range(TOLD_MAX + 2):
        await bank.actor(f"usr-a{number:03d}", Role.APPROVER)
    await bank.do(RESERVE, ANA)
    assert len({notice.recipient for notice in await bank.told()}) == TOLD_MAX


@pytest.mark.anyio
async def test_an_escalation_is_told_to_those_it_brings_in_and_to_nobody_twice(bank: Bank) -> None:
    await bank.prepare(IN_FRANCS)
    await bank.actor("usr-app", Role.APPROVER)
    await bank.actor("usr-adm", Role.ADMIN)
    parked = await bank.do(RESERVE, ANA)
    (first,) = await bank.told()
    await bank.do(first, asker("acme"))
    escalated = ApprovalEscalated(approval_id=parked.action_id, to_roles=(Role.ADMIN, Role.APPROVER))
    assert [notice.recipient for notice in await bank.made_of(escalated, f"approval:{parked.action_id}")] == ["usr-adm"]


# -- inboxes, over everything real


class Client:
    """A client of one running Aureus with its demo."""

    def __init__(self, http: httpx.AsyncClient, services: Services, demo: Demo) -> None:
        self.http, self.services = http, services
        self.logins = {login.login: login for login in demo.logins}
        self.tokens: dict[str, str] = {}

    def actor(self, login: str) -> str:
        return self.logins[login].actor

    async def call(self, method: str, path: str, login: str, body: Any = None, **parameters: Any) -> httpx.Response:
        if login not in self.tokens:
            answer = await self.http.post("/v1/auth/token", json={"login": login, "password": self.logins[login].password})
            self.tokens[login] = answer.json()["access_token"]
        headers = {"Authorization": f"Bearer {self.tokens[login]}"}
        answer = await self.http.request(method, path, headers=headers, params=parameters, json=body)
        told = answer.json()
        position = told.get("position") or told.get("error", {}).get("details", {}).get("position")
        if method == "POST" and position:
            await self.services.wait_for(position)
        return answer

    async def inbox(self, login: str, **filters: Any) -> list[dict[str, Any]]:
        answer = await self.call("GET", "/v1/notifications", login, **filters)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def told(self, login: str, kind: str) -> list[dict[str, Any]]:
        """What the login is told of this kind, as soon as there is something."""
        for _ in range(400):
            if found := await self.inbox(login, kind=kind):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"{login} is told of no {kind}")


@pytest.fixture
async def client(tmp_path: Path, database_url: str) -> AsyncIterator[Client]:
    async with open_services(Settings(home=tmp_path, database_url=database_url)) as services:
        demo = await ensure_demo(services)
        await services.wait_for(demo.position)
        app = create_app(services=services)
        app.state.services = services
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://aureus.test") as http:
            yield Client(http, services, demo)


DATASET = {"dataset_id": "crm.people", "name": "People", "domain": "crm", "pii_level": "high", "jurisdiction": "EU"}


@pytest.mark.anyio
async def test_a_refused_agent_and_a_parked_command_reach_the_inboxes_of_those_concerned(client: Client) -> None:
    refused = await client.call("POST", "/v1/datasets", "agent", DATASET)
    assert refused.status_code == 403, refused.text
    (blocked,) = await client.told("analyst", "action_blocked")
    assert (blocked["about"], blocked["status"], blocked["sent_by"]) == ("dataset:crm.people", "unread", "svc-reactions")
    assert blocked["action_id"] == refused.json()["error"]["details"]["action_id"]
    parked = await client.call("POST", "/v1/datasets", "analyst", DATASET)
    assert parked.status_code == 202, parked.text
    for login in ("approver", "approver2"):
        (waiting,) = await client.told(login, "approval_requested")
        assert waiting["about"] == f"approval:{parked.json()['approval_id']}"
    assert [row["kind"] for row in await client.inbox("analyst")] == ["action_blocked"]


@pytest.mark.anyio
async def test_an_inbox_is_its_owners_and_overseers_ask_for_it_by_name(client: Client) -> None:
    note = {"notification_id": "n1", "recipient": client.actor("analyst"), "subject": "The lake moves on Friday"}
    sent = await client.call("POST", "/v1/notifications", "admin", note)
    assert sent.status_code == 201, sent.text
    assert [row["notification_id"] for row in await client.inbox("analyst")] == ["n1"]
    for login in ("admin", "auditor", "viewer", "approver"):
        assert await client.inbox(login) == []
    for login, status in (("admin", 200), ("auditor", 200), ("viewer", 403), ("approver", 403)):
        answer = await client.call("GET", "/v1/notifications", login, recipient=client.actor("analyst"))
        assert answer.status_code == status, answer.text
        one = await client.call("GET", "/v1/notifications/n1", login)
        assert one.status_code == (200 if status == 200 else 404)
    both = await client.call("GET", "/v1/notifications", "viewer", recipient=[client.actor("viewer"), client.actor("analyst")])
    assert both.status_code == 403, both.text


@pytest.mark.anyio
async def test_who_was_told_reads_it_and_nobody_else(client: Client) -> None:
    note = {"notification_id": "n1", "recipient": client.actor("agent"), "subject": "Slow down"}
    assert (await client.call("POST", "/v1/notifications", "viewer", note)).status_code == 403
    await client.call("POST", "/v1/notifications", "admin", note)
    assert (await client.call("POST", "/v1/notifications/n1/read", "admin")).status_code == 409
    assert [row["status"] for row in await client.inbox("agent", status="unread")] == ["unread"]
    assert (await client.call("POST", "/v1/notifications/n1/read", "agent")).status_code == 200
    assert await client.inbox("agent", status="unread") == []
    assert [row["read_at"] is None for row in await client.inbox("agent")] == [False]
