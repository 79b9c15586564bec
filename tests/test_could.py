"""Who could see this then: one question tells what an agent could read, under which policies and approvals, with what budget left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from api.catalog import MAX_LINEAGE_EDGES
from api.cli.failures import ExitCode
from api.dataset_facts import Gathered, gather
from api.errors import ApiError
from api.reading import Reader
from commands.access import ChangeRoles, SuspendActor
from commands.agents import Delegate, RegisterAgent, StopAgent
from commands.budgets import OpenBudget, ReserveFunds
from commands.catalog import AssignOwner, DeprecateDataset, RecordLineage, RecordUsage
from commands.vault import GrantUnmasking
from domain.agents import DatasetFacts
from domain.catalog import PiiLevel, Upstream
from domain.kernel import timestamp
from domain.ledger import Append, StreamWrite
from domain.policies import Rule, Scope
from domain.values import Role
from infra.could import PastLedger
from infra.policy_sets import STREAM
from tests.given import ANALYST, AT
from tests.support.kernel import ADM, ANA, APP, BEN, ask
from tests.support.keys import adding, lines, new_key
from tests.support.then import AUD, BOT, HELPER, Then, then
from tests.test_policy_sets import FINDING, HEAD, RUNAWAY

pytestmark = pytest.mark.anyio

KIM = replace(ANA, actor="usr-kim")
FREE = replace(BOT, actor="agt-free")
LOOPS = f"""{HEAD}night(question) := [finding |
	{RUNAWAY}i * j == -1
	finding := {FINDING % "allow"}
]
"""
CLOSED = Rule(outcome="block", reason="No people.")
PERSONAL = Scope(pii_levels=(PiiLevel.HIGH,), actions=("agents.request_action",))


@dataclass
class Story:
    """What happened, and the position after each chapter."""

    bank: Then
    at: dict[str, int]
    approval_id: str = ""
    brief_id: str = ""
    brief_expires_at: str = ""

    def ends(self, chapter: str) -> None:
        self.at[chapter] = self.bank.services.ledger.head.size

    async def could(self, chapter: str, what: str = f"could/{BOT.actor}", **parameters: Any) -> Any:
        return await self.bank.could(what, **{"as_of": self.at[chapter], **parameters})

    async def verdicts(self, chapter: str) -> dict[str, str]:
        return {item["dataset_id"]: item["verdict"] for item in (await self.could(chapter))["items"]}


async def called(bank: Then, request_id: str, dataset_id: str, by: Any = BOT, **headers: str) -> tuple[int, Any]:
    """A tool call as an agent makes it."""
    call = {"request_id": request_id, "tool": "read", "datasets": [dataset_id], "purpose": "Report"}
    answer = await bank.post(f"/v1/agents/{by.actor}/actions", call, by, **headers)
    return answer.status_code, answer.json().get("error") or answer.json()


async def known(bank: Then, dataset_id: str, domain: str, jurisdiction: str = "EU") -> None:
    body = {"dataset_id": dataset_id, "name": dataset_id, "domain": domain, "pii_level": "none", "jurisdiction": jurisdiction}
    assert (await bank.post("/v1/datasets", body, ANA)).status_code == 201


async def approved(bank: Then, request_id: str, dataset_id: str) -> str:
    status, body = await called(bank, request_id, dataset_id)
    assert status == 202, body
    assert (await bank.post(f"/v1/approvals/{body['approval_id']}/approve", {}, APP)).status_code == 200
    return str(body["approval_id"])


def leave(grant_id: str, until: datetime) -> GrantUnmasking:
    """Leave for Ben to see personal values of the owner of the orders."""
    purposes = ("governance",)
    return GrantUnmasking(grant_id=grant_id, actor_id=BEN.actor, purposes=purposes, subject_id="usr-own", until=until, reason="To call")


@pytest.fixture(scope="module")
async def story(tmp_path_factory: pytest.TempPathFactory, shared_database_url: str, anyio_backend: object) -> AsyncIterator[Story]:
    """A bank in which everything that decides reading changes once."""
    async with then(shared_database_url, tmp_path_factory.mktemp("home")) as bank:
        told = Story(bank, {"nothing": 0})
        await bank.know(ADM, ANA, APP, AUD, BEN, KIM, BOT, HELPER)
        for agent in (BOT, HELPER):
            await bank.done(RegisterAgent(agent_id=agent.actor, label="B", purpose="Reports", model="m-1", owner=ANA.actor))
        told.ends("actors")
        for dataset in (("orders", "sales"), ("clicks", "web", "US")):
            await known(bank, *dataset)
        assert (await called(bank, "r1", "orders"))[0] == 201
        told.ends("open")
        assert (await bank.post("/v1/datasets/orders/describe", {"pii_level": "high"}, ANA)).status_code == 200
        told.ends("personal")
        told.approval_id = await approved(bank, "r2", "orders")
        told.ends("approved")
        await bank.done(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100_000))
        await bank.done(OpenBudget(budget_id="lake.nightly", label="N", currency="EUR", limit_minor=60_000))
        await bank.done(ReserveFunds(budget_id="lake.nightly", amount_minor=20_000), BOT)
        await bank.done(ReserveFunds(budget_id="lake", amount_minor=50_000), ANA)
        await bank.done(AssignOwner(dataset_id="orders", owner_id="usr-own"), ANA)
        for grant_id, seconds in (("g1", 86_400), ("g2", 1)):
            await bank.done(leave(grant_id, datetime.now(UTC) + timedelta(seconds=seconds)))
        told.ends("budget")
        assert (await called(bank, "r2", "orders", aureus_approval=told.approval_id))[0] == 201
        told.ends("used")
        told.brief_id = await approved(bank, "r3", "clicks")
        row = (await bank.get(f"/v1/approvals/{told.brief_id}", AUD, at_least=bank.services.ledger.head.size)).json()
        told.brief_expires_at = row["expires_at"]
        told.ends("brief")
        await asyncio.sleep(1.1)
        version = await bank.put_in_force("no_people", PERSONAL, rule=CLOSED)
        told.ends("closed")
        assert (await called(bank, "r4", "orders"))[1]["code"] == "policy_blocked"
        await bank.roll_policies_back("no_people", version)
        await bank.done(ChangeRoles(actor_id=BEN.actor, granted_roles=(Role.VIEWER,)))
        await bank.done(DeprecateDataset(dataset_id="clicks", reason="Old"), ANA)
        told.ends("back")
        await bank.done(Delegate(agent_id=HELPER.actor, delegated_by=BOT.actor))
        await bank.done(SuspendActor(actor_id=BEN.actor))
        await bank.done(StopAgent(agent_id=BOT.actor, reason="It runs wild"), AUD)
        assert (await called(bank, "r5", "orders"))[1]["code"] == "agent_stopped"
        told.ends("stopped")
        await bank.done(adding(bank.services.ledger.name, new_key(holder="acme/usr-kim"), bank.services.keystore.root), KIM)
        told.ends("key")
        await bank.put_in_force("night", Scope(actions=("agents.request_action",)), rego=LOOPS)
        await bank.know(FREE)
        told.ends("looping")
        await bank.services.wait_for(bank.services.ledger.head.size)
        yield told


# -- what an agent could read


async def test_each_moment_has_its_own_verdicts(story: Story) -> None:
    assert await story.verdicts("actors") == {}
    assert await story.verdicts("open") == {"orders": "allowed", "clicks": "needs_approval"}
    assert await story.verdicts("personal") == {"orders": "needs_approval", "clicks": "needs_approval"}
    assert (await story.verdicts("approved"))["orders"] == "approved"
    assert (await story.verdicts("used"))["orders"] == "needs_approval", "an approval is good for one call"
    assert (await story.verdicts("closed"))["orders"] == "blocked"
    assert await story.verdicts("back") == {"orders": "needs_approval", "clicks": "blocked"}
    assert await story.verdicts("stopped") == {"orders": "blocked", "clicks": "blocked"}


async def test_one_answer_says_what_under_which_policies_approved_by_whom_and_with_what_budget_left(story: Story) -> None:
    told = await story.could("budget", dataset="orders")
    (item,) = told["items"]
    assert (item["verdict"], item["pii_level"], told["tool"]) == ("approved", "high", "read")
    assert [(said["policy"], said["version"], said["outcome"]) for said in item["policies"]] == [
        ("baseline_allow", 1, "allow"),
        ("pii_access", 1, "require_approval"),
    ]
    (approval,) = item["approvals"]
    assert approval["approval_id"] == story.approval_id
    assert (approval["status"], approval["covers"], approval["request_id"]) == ("approved", True, "r2")
    assert [one["approver"] for one in approval["given_by"]] == ["usr-app"]
    (budget,) = told["budgets"]
    assert (budget["budget_id"], budget["left_minor"], budget["held_minor"]) == ("lake.nightly", 30_000, 20_000), (
        "no more than the lake has"
    )
    until = f"{approval['expires_at'][:19]}Z"
    assert told["explanation"] == (
        "agt-bot was an agent of usr-ana in the role agent. "
        f"agt-bot could read orders under approval {story.approval_id} by usr-app until {until}, which pii_access v1 asked for. "
        "Budget lake.nightly had 300.00 EUR left."
    )


async def test_who_could_see_personal_values_unmasked_is_told_of_actors_and_of_the_owners_of_a_dataset(story: Story) -> None:
    for what in (f"could/{BEN.actor}", "could-see/orders"):
        for chapter, granted in (("approved", []), ("budget", ["g1", "g2"]), ("closed", ["g1"])):
            assert [one["grant_id"] for one in (await story.could(chapter, what))["unmasking"]] == granted, (what, chapter)
    for what in (f"could/{BOT.actor}", "could-see/clicks"):
        assert (await story.could("budget", what))["unmasking"] == []


async def test_a_used_approval_is_told_and_covers_nothing_any_more(story: Story) -> None:
    (item,) = (await story.could("used", dataset="orders"))["items"]
    (approval,) = item["approvals"]
    assert (approval["status"], approval["covers"]) == ("used", False)
    assert approval["why_not"] == f"It was used at {approval['used_at']}."


async def test_an_approval_ends_with_the_clock_and_not_with_an_event(story: Story) -> None:
    ends = datetime.fromisoformat(story.brief_expires_at)
    before, after = [
        (await story.bank.could(f"could/{BOT.actor}", as_of=timestamp(moment), dataset="clicks"))["items"][0]
        for moment in (ends - timedelta(milliseconds=1), ends)
    ]
    assert (before["verdict"], after["verdict"]) == ("approved", "needs_approval")
    assert [one["approvals"][0]["approval_id"] for one in (before, after)] == [story.brief_id] * 2
    assert "expired at" in after["approvals"][0]["why_not"]


async def test_a_policy_that_was_put_in_force_and_taken_back_judges_only_in_between(story: Story) -> None:
    closed = await story.could("closed", dataset="orders")
    assert ("no_people", 1, "block") in [(said["policy"], said["version"], said["outcome"]) for said in closed["items"][0]["policies"]]
    assert {"policy": "no_people", "version": 1} in closed["in_force"]["policies"]
    assert "could not read orders: Policy refuses agents.request_action: no_people: No people." in closed["explanation"]
    back = await story.could("back", dataset="orders")
    assert "no_people" not in {one["policy"] for one in back["in_force"]["policies"]}
    assert closed["in_force"]["policy_version"] != back["in_force"]["policy_version"]
    assert back["in_force"]["policy_version"] == (await story.could("open"))["in_force"]["policy_version"]


async def test_the_policies_named_are_those_that_decisions_of_that_time_recorded(story: Story) -> None:
    recorded = (await story.bank.get("/v1/actions", AUD, action="agents.request_action", sort="position")).json()["items"]
    blocked = next(row for row in recorded if row["code"] == "policy_blocked")
    evidence = (await story.bank.get(f"/v1/evidence/{blocked['id']}", AUD)).json()
    assert (await story.could("closed"))["in_force"]["policy_version"] in str(evidence)


async def test_a_stop_is_told_with_who_made_it_and_counts_for_all_who_act_for_the_agent(story: Story) -> None:
    told = await story.could("stopped", f"could/{HELPER.actor}", dataset="orders")
    actor, stop = told["actor"], told["actor"]["stop"]
    assert (actor["status"], actor["acts_for"]) == ("stopped", [BOT.actor])
    assert (stop["agent_id"], stop["by"], stop["reason"]) == (BOT.actor, "usr-aud", "It runs wild")
    assert (told["items"][0]["code"], told["items"][0]["policies"]) == ("agent_stopped", [])
    assert "agt-bot had been stopped by usr-aud" in told["explanation"]
    assert (await story.could("back", f"could/{HELPER.actor}"))["actor"]["status"] == "active"


async def test_a_person_is_told_by_what_they_may_put_on_record(story: Story) -> None:
    before = await story.could("open", f"could/{BEN.actor}")
    assert (before["action"], before["tool"], before["counts"]["allowed"]) == ("catalog.record_usage", None, 2)
    after = await story.could("back", f"could/{BEN.actor}", dataset="orders")
    assert (after["items"][0]["verdict"], after["items"][0]["code"]) == ("blocked", "role_missing")
    gone = await story.could("stopped", f"could/{BEN.actor}", dataset="orders")
    assert (gone["actor"]["status"], gone["items"][0]["code"]) == ("suspended", "actor_suspended")
    assert gone["explanation"].startswith("usr-ben was a person in the role viewer. It was suspended.")


# -- who could see a dataset


async def test_who_could_see_a_dataset_names_everybody_with_their_standing(story: Story) -> None:
    seen = await story.could("stopped", "could-see/orders")
    verdicts = {item["actor_id"]: (item["verdict"], item["status"]) for item in seen["items"]}
    assert verdicts[BOT.actor] == verdicts[HELPER.actor] == ("blocked", "stopped")
    assert verdicts["usr-ben"] == ("blocked", "suspended")
    assert verdicts["usr-ana"] == ("allowed", "active")
    assert verdicts["usr-aud"] == ("blocked", "active"), "an auditor puts no reads on record"
    assert (seen["dataset"]["pii_level"], sum(seen["counts"].values())) == ("high", len(verdicts))


async def test_who_could_see_it_agrees_with_what_each_could_read(story: Story) -> None:
    for item in (await story.could("approved", "could-see/orders"))["items"]:
        (read,) = (await story.could("approved", f"could/{item['actor_id']}", dataset="orders"))["items"]
        told = ("verdict", "code", "policies", "approvals", "explanation")
        assert {name: read[name] for name in told} == {name: item[name] for name in told}, item["actor_id"]


async def test_one_verdict_or_one_kind_of_actor_alone(story: Story) -> None:
    approved_ones = await story.could("approved", "could-see/orders", verdict="approved")
    assert [item["actor_id"] for item in approved_ones["items"]] == [BOT.actor]
    assert approved_ones["counts"]["allowed"] > 0, "the counts are of all"
    agents = await story.could("approved", "could-see/orders", kind="agent")
    assert [item["actor_id"] for item in agents["items"]] == [BOT.actor, HELPER.actor]


async def test_pages_go_on_where_the_last_one_ended(story: Story) -> None:
    first = await story.could("open", limit=1)
    second = await story.could("open", limit=1, cursor=first["next_cursor"])
    assert [page["items"][0]["dataset_id"] for page in (first, second)] == ["clicks", "orders"]
    assert second["next_cursor"] is None
    assert [item["dataset_id"] for item in (await story.could("open", domain="web"))["items"]] == ["clicks"]


async def test_a_question_writes_nothing(story: Story) -> None:
    size = story.bank.services.ledger.head.size
    for _ in range(3):
        await story.could("open")
    assert (await story.bank.services.ledger.refresh()).size == size


async def test_policies_may_tell_tools_apart(story: Story) -> None:
    told = await story.could("open", dataset="orders", tool="sql.query")
    assert (told["tool"], told["items"][0]["verdict"]) == ("sql.query", "allowed")


# -- refusals


@pytest.mark.parametrize(
    ("chapter", "what", "parameters", "status", "code", "field"),
    [
        ("nothing", "could/agt-bot", {}, 404, "actor_not_found", "actor_id"),
        ("open", "could/agt-bot", {"as_of": "0001-01-01T00:00:00+14:00"}, 404, "actor_not_found", "actor_id"),
        ("open", "could/usr-nobody", {}, 404, "actor_not_found", "actor_id"),
        ("actors", "could-see/orders", {}, 404, "dataset_not_found", "dataset_id"),
        ("actors", "could/agt-bot", {"dataset": "orders"}, 404, "dataset_not_found", "dataset_id"),
        ("open", "could/usr-ana", {"action": "agents.request_action"}, 422, "invalid_parameter", "action"),
        ("open", "could/usr-ana", {"tool": "read"}, 422, "invalid_parameter", "tool"),
        ("open", "could/agt-bot", {"action": "catalog.record_usage", "tool": "read"}, 422, "invalid_parameter", "tool"),
        ("open", "could/agt-bot", {"action": "budgets.open_budget"}, 422, "validation_failed", "query.action"),
        ("open", "could/agt-bot", {"verdict": "maybe"}, 422, "validation_failed", "query.verdict"),
        ("open", "could-see/orders", {"kind": "robot"}, 422, "validation_failed", "query.kind"),
        ("open", "could/agt-bot", {"limit": 1_001}, 422, "validation_failed", "query.limit"),
        ("open", "could/agt-bot", {"cursor": "x"}, 422, "invalid_parameter", "cursor"),
    ],
)
async def test_what_is_not_told(
    story: Story, chapter: str, what: str, parameters: dict[str, Any], status: int, code: str, field: str
) -> None:
    refused = await story.could(chapter, what, status=status, **parameters)
    assert (refused["code"], refused["details"]["field"]) == (code, field)
    if status == 404:
        assert "at that time" in refused["message"]


async def test_everybody_asks_about_themselves_and_only_overseers_about_others(story: Story) -> None:
    for by in (BOT, ANA, APP):
        own = await story.bank.could(f"could/{by.actor}", by, as_of=story.at["open"])
        assert own["actor"]["actor_id"] == by.actor
    for by, what in ((BOT, "could/usr-ana"), (ANA, f"could/{BOT.actor}"), (APP, "could-see/orders"), (ANA, "could/usr-nobody")):
        assert (await story.bank.could(what, by, status=403))["code"] == "role_missing"
    elsewhere = replace(ANALYST, actor="usr-adm", tenant="globex")
    assert (await story.bank.get("/v1/could/agt-bot", elsewhere)).status_code == 401


async def test_policies_that_gave_no_answer_are_not_taken_for_a_no(story: Story) -> None:
    refused = await story.could("looping", f"could/{FREE.actor}", dataset="orders", status=503)
    assert refused["code"] == "policies_silent"
    assert "'timeout'" in refused["message"]
    (item,) = (await story.could("looping", "could/usr-ana", dataset="orders"))["items"]
    assert item["verdict"] == "allowed", "nobody asked that policy about people"


async def test_who_has_a_key_of_their_own_is_taken_to_have_signed(story: Story) -> None:
    for chapter in ("back", "key"):
        assert (await story.could(chapter, f"could/{KIM.actor}"))["counts"]["allowed"] == 2
    unsigned = await story.bank.post("/v1/datasets/orders/usage", {"used_by": KIM.actor}, KIM)
    assert unsigned.json()["error"]["code"] == "signature_missing"


# -- what it rests on


def test_a_dataset_is_as_deep_as_its_farthest_upstream_and_a_circle_ends() -> None:
    row = {"pii_level": "none", "jurisdiction": "EU", "environment": "dev", "status": "active"}
    rows = {"a": {**row, "contract": None, "freshness_sla": None, "last_refresh_at": None}}
    ways = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": {"a", "c"}}
    gathered = Gathered(rows, {one: frozenset(behind) for one, behind in ways.items()})
    assert (gathered.of("a", AT).lineage_depth, gathered.of("nowhere", AT)) == (2, DatasetFacts(dataset_id="nowhere"))
    wide = Gathered(rows, {"a": frozenset(map(str, range(MAX_LINEAGE_EDGES + 1)))})
    with pytest.raises(ApiError, match="The lineage of a has more than 10000 edges"):
        wide.of("a", AT)


async def test_facts_gathered_together_are_those_gathered_one_by_one(story: Story) -> None:
    bank = story.bank
    await known(bank, "mid", "sales")
    for downstream, upstream in (("orders", "mid"), ("mid", "raw")):
        await bank.done(RecordLineage(dataset_id=downstream, upstream=Upstream(dataset_id=upstream)), ADM)
    await bank.services.wait_for(bank.services.ledger.head.size)
    reader = Reader(bank.services, ADM, None)
    names = ("orders", "mid", "nowhere")
    together = await gather(reader, names)
    for name in names:
        assert together.of(name, AT) == (await gather(reader, [name])).of(name, AT)
    assert [together.of(name, AT).lineage_depth for name in names] == [2, 1, 0]


async def test_a_past_ledger_leaves_out_how_often_data_was_read_but_not_which_version_it_was_at(story: Story) -> None:
    services = story.bank.services
    position = [await story.bank.done(RecordUsage(dataset_id="orders", used_by=ANA.actor), ANA) for _ in range(3)][-1]
    whole = await services.ledger.read_stream("acme", "dataset:orders")
    past = await PastLedger(services.reads, services.ledger.name, position).read_stream("acme", "dataset:orders")
    assert (len(past), past[-1].version) == (len(whole) - 2, whole[-1].version)


async def test_nothing_is_ever_written_into_the_past(story: Story) -> None:
    services = story.bank.services
    past = PastLedger(services.reads, services.ledger.name, story.at["open"])
    assert [event.position for event in await past.read_stream("acme", STREAM)][-1] <= story.at["open"]
    with pytest.raises(AssertionError, match="nothing is written into the past"):
        past.enqueue(Append("acme", "usr-ana", (StreamWrite("budget:x", 0, ()),), uuid4()))


async def test_what_is_only_rehearsed_counts_for_no_rate(story: Story) -> None:
    services = story.bank.services
    opening = OpenBudget(budget_id="sea", label="S", currency="EUR", limit_minor=1)
    for _ in range(130):
        await services.path.rehearse(ask(opening, APP))
    position = await story.bank.done(opening, APP)
    (action,) = await services.ledger.read(position - 1, 1)
    question: Any = action.event.dump()["question"]
    assert question["recent"] == 64


# -- on the command line


async def test_the_command_line_tells_it_as_a_table_with_a_sentence(story: Story, tmp_path: Path) -> None:
    async with lines(story.bank, tmp_path, AUD) as aureus:
        at = ("--as-of", str(story.at["budget"]))
        told = await aureus("could", "read", BOT.actor, "--dataset", "orders", *at)
        assert told.startswith(f"As of position {story.at['budget']}, ")
        assert f"agt-bot could read orders under approval {story.approval_id} by usr-app until" in told
        rows = {line.split()[0]: line for line in told.splitlines() if line.strip().startswith(("orders", "lake"))}
        assert rows["orders"].split()[:4] == ["orders", "high", "EU", "approved"]
        assert rows["lake.nightly"].split()[1:4] == ["open", "300.00", "200.00"]
        assert f"approval {story.approval_id} for r2 (Report), by usr-app, until" in told
        assert "pii_access v1: require_approval, The data holds much about people (PII level high)." in told
        seen = await aureus("could", "see", "orders", "--kind", "agent", *at)
        assert [line.split()[0] for line in seen.splitlines() if line.strip().startswith("agt-")] == [BOT.actor, HELPER.actor]
        assert "Of 2 actors: 0 allowed, 1 under an approval it had, 1 only with one it had not, 0 not at all." in seen
        assert (await aureus.json("could", "see", "orders", "--kind", "agent", *at)) == await story.could(
            "budget", "could-see/orders", kind="agent"
        )
        paged = await aureus.json("could", "read", BOT.actor, "--as-of", str(story.at["open"]), "--limit", "1")
        assert (len(paged["items"]), sum(paged["counts"].values())) == (1, 1)
        refused = await aureus("could", "read", "usr-nobody", exit_code=ExitCode.NOT_FOUND)
        assert "There was no actor 'usr-nobody' at that time." in refused
