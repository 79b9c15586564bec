"""Anomalies in the audit trail: a planted insider is found, a quiet bank gives no finding, and too little history is said."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given as holds_for
from hypothesis import strategies as st

from api.services import deciders
from commands.access import ChangeRoles, RegisterActor
from commands.catalog import RecordUsage, RegisterDataset
from commands.path import Ask, CommandPath
from domain.kernel import Asker, Command
from domain.notifications import NotificationSent
from domain.values import ActorKind, Role, uuid7
from infra.anomalies import MEASURES, OWN_DAYS, Report, examine
from infra.audit_trail import Entry, Trail, read_trail
from infra.keystore import FileKeystore
from infra.opening import open_ledger
from infra.unusual import NAMED_MAX, UNUSUAL, Finding
from streams.notifications import tell_auditors
from streams.reactions import ACTOR
from streams.reactor import Rows
from tests.support.kernel import ADM, catch_up, policies
from tests.support.reacting import eventually
from tests.support.running import Aureus, running
from tests.test_cli import Server, aureus, home, server  # noqa: F401 - the last two are fixtures

MONDAY: Final = datetime(2026, 3, 2, tzinfo=UTC)
"""Of the week that is looked at; the four weeks before it are the history."""
SUNDAY: Final = MONDAY + timedelta(days=6, hours=23)
WEDNESDAY: Final = date(2026, 3, 4)
INSIDER: Final = "usr-analyst0"
CAST: Final = {
    "usr-analyst": (6, ("person", "analyst"), (5, 25)),
    "usr-approver": (4, ("person", "approver"), (4, 12)),
    "usr-admin": (2, ("person", "admin"), (3, 10)),
    "agt-bot": (4, ("agent", "agent"), (20, 60)),
    "svc-loader": (1, ("service", "analyst"), (150, 200)),
}
"""How many of each there are, what they are, and how much they do on a usual day."""


@dataclass
class Bank:
    """An ordinary bank: people on working days, agents at all hours, one service that does much, and approvals among them."""

    dice: random.Random
    entries: list[Entry] = field(default_factory=list)

    def add(self, actor: str, role: tuple[str, ...], at: datetime, command: str, stream: str, outcome: str = "allowed") -> Entry:
        high_pii = (stream,) if stream.endswith("0") and command.startswith("catalog.") else ()
        entry = Entry(f"action-{len(self.entries)}", at, actor, role, command, stream, outcome, high_pii)
        self.entries.append(entry)
        return entry

    def live(self, days: int = 35) -> Bank:
        for name, (number, role, usual) in CAST.items():
            for one in range(number):
                self._career(f"{name}{one}", role, self.dice.uniform(*usual), days)
        return self

    def _career(self, actor: str, role: tuple[str, ...], usual: float, days: int) -> None:
        person = role[0] == "person"
        begins = self.dice.uniform(6.5, 9.5)
        for day in range(days):
            midnight = MONDAY + timedelta(days=7 - days + day)
            if person and (midnight.weekday() > 4 or self.dice.random() < 0.1):
                continue
            for _ in range(round(self.dice.gammavariate(6, usual / 6))):
                at = midnight + timedelta(hours=begins + self.dice.triangular(0, 9) if person else self.dice.uniform(0, 24))
                self._act(actor, role, at)
            if role[1] == "admin":
                self.add(actor, role, midnight + timedelta(hours=12), "access.change_roles", f"actor:{actor}")

    def _act(self, actor: str, role: tuple[str, ...], at: datetime) -> None:
        if role[1] == "approver":
            of = self.dice.choices(("usr-analyst", "usr-approver", "usr-admin"), (8, 1, 1))[0]
            requester = f"{of}{self.dice.randrange(CAST[of][0])}"
            if requester != actor:
                self.approve(actor, role, requester, at, timedelta(minutes=min(self.dice.lognormvariate(3, 1.5), 60)), CAST[of][1])
        else:
            stream = f"dataset:{int(self.dice.paretovariate(0.8)) % 300}"
            outcome = "blocked" if self.dice.random() < 0.03 else "allowed"
            self.add(actor, role, at, "catalog.record_usage", stream, outcome)

    def approve(
        self, actor: str, role: tuple[str, ...], requester: str, at: datetime, after: timedelta, of: tuple[str, ...] = ("person", "analyst")
    ) -> Entry:
        parked = self.add(requester, of, at - after, "catalog.register_dataset", "dataset:new", "requires_approval")
        return self.add(actor, role, at, "approvals.approve_request", f"approval:{parked.action_id}")

    def trail(self) -> Trail:
        return Trail(sorted(self.entries, key=lambda entry: entry.at), MONDAY - timedelta(days=28))


def quiet(seed: int = 7) -> Bank:
    return Bank(random.Random(seed)).live()


def week(bank: Bank) -> Report:
    return examine(bank.trail(), MONDAY, SUNDAY)


@pytest.mark.slow
def test_quiet_weeks_give_no_findings() -> None:
    """Of a thousand actors' weeks, heavy tails included, at most one looks unusual."""
    reports = [week(quiet(seed)) for seed in range(60)]
    assert sum(len(report.findings) for report in reports) <= 1, [found.explanation for report in reports for found in report.findings]
    assert not any(report.unjudged for report in reports)


# -- a planted insider

ANALYST: Final = ("person", "analyst")
ADMIN: Final = ("person", "admin")


def on_wednesday(hour: float) -> datetime:
    return MONDAY + timedelta(days=2, hours=hour)


def reads_everything(bank: Bank) -> list[Entry]:
    return [bank.add(INSIDER, ANALYST, on_wednesday(9 + number / 60), "catalog.record_usage", f"dataset:{number}") for number in range(400)]


def takes_personal_data_slowly(bank: Bank) -> list[Entry]:
    """No more actions than on any other day, but each on a dataset of PII level high."""
    bank.entries = [entry for entry in bank.entries if (entry.actor, entry.at.date()) != (INSIDER, WEDNESDAY)]
    hours = [9 + number / 2 for number in range(16)]
    return [bank.add(INSIDER, ANALYST, on_wednesday(hour), "catalog.record_usage", f"dataset:{hour * 20:.0f}0") for hour in hours]


def tries_doors(bank: Bank) -> list[Entry]:
    return [bank.add(INSIDER, ANALYST, on_wednesday(11), "budgets.open_budget", "budget:mine", "blocked") for _ in range(15)]


def works_at_night(bank: Bank) -> list[Entry]:
    return [bank.add(INSIDER, ANALYST, on_wednesday(3), "catalog.record_usage", "dataset:1") for _ in range(4)]


def hurries(bank: Bank) -> list[Entry]:
    """An hour's burst of one whose days are always busy."""
    bank.entries = [entry for entry in bank.entries if entry.actor != "usr-busy"]
    for past in range(-28, 2):
        for number in range(60):
            bank.add(
                "usr-busy", ("person", "steward"), MONDAY + timedelta(days=past, hours=8 + number / 6), "catalog.tag_dataset", "dataset:1"
            )
    return [
        bank.add("usr-busy", ("person", "steward"), on_wednesday(10 + number / 100), "catalog.tag_dataset", "dataset:1")
        for number in range(70)
    ]


def reaches_for_power(bank: Bank) -> list[Entry]:
    return [bank.add(INSIDER, ANALYST, on_wednesday(10), "policies.activate_policies", "policyset:active", "blocked")]


def approve_each_other(bank: Bank, weeks_ago: int = 0) -> list[Entry]:
    pair = ["usr-admin0", "usr-admin1"]
    begin = on_wednesday(9) - timedelta(weeks=weeks_ago)
    return [
        bank.approve(pair[number % 2], ADMIN, pair[1 - number % 2], begin + timedelta(minutes=30 * number), timedelta(minutes=9), ADMIN)
        for number in range(14)
    ]


def waves_through(bank: Bank) -> list[Entry]:
    approver = ("person", "approver")
    return [bank.approve("usr-approver1", approver, INSIDER, on_wednesday(10 + number / 10), timedelta(seconds=4)) for number in range(5)]


@pytest.mark.parametrize(
    ("insider", "about", "kinds"),
    [
        (reads_everything, [INSIDER], {"many_actions", "many_streams", "many_high_pii"}),
        (takes_personal_data_slowly, [INSIDER], {"many_high_pii"}),
        (tries_doors, [INSIDER], {"many_refusals"}),
        (works_at_night, [INSIDER], {"unusual_hours"}),
        (hurries, ["usr-busy"], {"busy_hour"}),
        (reaches_for_power, [INSIDER], {"first_sensitive_use"}),
        (approve_each_other, ["usr-admin0", "usr-admin1"], {"mutual_approvals"}),
        (waves_through, ["usr-approver1", INSIDER], {"hasty_approvals"}),
    ],
)
def test_an_insider_is_found_and_nobody_else(insider: Callable[[Bank], list[Entry]], about: list[str], kinds: set[str]) -> None:
    bank = quiet()
    planted = {entry.action_id for entry in insider(bank)}
    report = week(bank)
    assert {found.kind for found in report.findings} == kinds, [found.explanation for found in report.findings]
    for found in report.findings:
        assert [found.actor, *([found.counterpart] if found.counterpart else [])] == about
        assert found.since <= "2026-03-04T00:00:00.000000Z" < found.until
        assert set(found.action_ids) & planted
        assert found.score >= UNUSUAL
        assert about[0] in found.explanation
        assert f"{found.value} " in found.explanation or found.kind == "first_sensitive_use"
        assert found.usual, "what is usual is told with it"


def one(report: Report, kind: str) -> Finding:
    (found,) = [found for found in report.findings if found.kind == kind]
    return found


def test_a_finding_says_what_is_usual_and_what_it_rests_on() -> None:
    bank = quiet()
    planted = reads_everything(bank)
    found = one(week(bank), "many_actions")
    assert [usual.against for usual in found.usual] == ["own_past", "role_past", "role_that_day"]
    own = found.usual[0]
    assert 5 <= own.median <= 25
    assert found.score == round(min((found.value - usual.median) / usual.spread for usual in found.usual), 1)
    assert (found.actions, len(found.action_ids)) == (found.value, NAMED_MAX)
    assert found.value >= len(planted)
    assert found.explanation.startswith(f"{INSIDER}: {found.value} actions on 2026-03-04. Usual: {own.median:g} on ")


def test_the_same_trail_leads_to_the_same_report_and_a_finding_keeps_its_id_as_it_grows() -> None:
    bank = quiet()
    reads_everything(bank)
    report = week(bank)
    assert week(bank) == report
    bank.add(INSIDER, ANALYST, on_wednesday(18), "catalog.record_usage", "dataset:1")
    later = one(week(bank), "many_actions")
    assert (later.id, later.value) == (one(report, "many_actions").id, one(report, "many_actions").value + 1)


def test_a_few_wild_days_before_hide_nothing() -> None:
    bank = quiet()
    for past in (-20, -13, -6, -5):
        for number in range(300):
            at = MONDAY + timedelta(days=past, hours=9 + number / 60)
            bank.add(INSIDER, ANALYST, at, "catalog.record_usage", f"dataset:{number}")
    reads_everything(bank)
    assert {"many_actions", "many_high_pii"} <= {found.kind for found in week(bank).findings}


def test_on_a_hard_day_for_everybody_nobody_stands_out() -> None:
    bank = quiet()
    for analyst in range(CAST["usr-analyst"][0]):
        for number in range(200):
            bank.add(f"usr-analyst{analyst}", ANALYST, on_wednesday(9 + number / 60), "catalog.record_usage", f"dataset:{number}")
    assert week(bank).findings == ()


def test_what_peers_do_every_day_is_not_unusual_for_a_newcomer_to_it() -> None:
    bank = quiet()
    for number in range(60):
        bank.add("agt-bot0", ("agent", "agent"), on_wednesday(number / 3), "catalog.record_usage", f"dataset:{number}")
    few = [entry for entry in bank.entries if entry.actor != "agt-bot0" or entry.at.date() == WEDNESDAY or int(entry.action_id[-1]) == 0]
    assert examine(Trail(few, MONDAY), MONDAY, SUNDAY).findings == ()


def test_an_hour_that_is_nearly_usual_is_not_unusual() -> None:
    """People stay late, and twice a year the clocks change."""
    bank = Bank(random.Random(7))
    for past in range(-28, 0):
        bank.add(INSIDER, ANALYST, MONDAY + timedelta(days=past, hours=17), "catalog.record_usage", "dataset:1")
    for hour in (15, 19, 19.9):
        bank.add(INSIDER, ANALYST, on_wednesday(hour), "catalog.record_usage", "dataset:1")
    assert week(bank).findings == ()
    for hour in (1, 14.9, 20, 23):
        bank.add(INSIDER, ANALYST, on_wednesday(hour), "catalog.record_usage", "dataset:1")
    assert one(week(bank), "unusual_hours").value == 4


def test_a_first_use_is_told_once_and_never_of_what_was_used_long_ago() -> None:
    bank = quiet()
    for day in (1, 2, 3):
        bank.add(INSIDER, ANALYST, MONDAY + timedelta(days=day, hours=10), "agents.resume_agent", "agent:agt-bot0")
    assert one(week(bank), "first_sensitive_use").since == "2026-03-03T00:00:00.000000Z"
    known = replace(bank.trail(), used_before=frozenset({(INSIDER, "agents.resume_agent")}))
    assert examine(known, MONDAY, SUNDAY).findings == ()


# -- too little to compare with


def test_too_little_history_is_said_and_nothing_is_guessed() -> None:
    bank = Bank(random.Random(7))
    for day in (0, 1, 2):
        for number in range(1 if day < 2 else 500):
            bank.add("usr-new", ("person", "auditor"), MONDAY + timedelta(days=day, hours=9), "access.change_roles", f"actor:{number}")
    report = week(bank)
    assert report.findings == ()
    assert [(one.actor, one.reason) for one in report.unjudged] == [
        ("usr-new", "not enough history: 2 days of its own, and too few of its role")
    ]


def test_a_newcomer_is_compared_with_its_role() -> None:
    bank = quiet()
    for number in range(400):
        bank.add("usr-new", ANALYST, on_wednesday(9 + number / 60), "catalog.record_usage", f"dataset:{number}")
    report = week(bank)
    assert {found.actor for found in report.findings} == {"usr-new"}
    assert {usual.against for found in report.findings for usual in found.usual} == {"role_past", "role_that_day"}
    assert [one.reason for one in report.unjudged] == ["not enough history: 0 days of its own, compared with its role alone"]


def test_who_approves_much_of_one_colleague_does_not_thereby_approve_each_other() -> None:
    bank = quiet()
    approver = ("person", "approver")
    for number in range(14):
        at = on_wednesday(9 + number / 2)
        bank.approve("usr-approver0", approver, "usr-approver1", at, timedelta(minutes=9), approver)
    bank.entries = [entry for entry in bank.entries if entry.actor != "usr-approver1" or entry.command != "approvals.approve_request"]
    bank.approve("usr-approver1", approver, "usr-admin0", on_wednesday(9), timedelta(minutes=9), ADMIN)
    assert week(bank).findings == ()


def test_pairs_without_other_pairs_are_not_judged() -> None:
    bank = Bank(random.Random(7))
    approve_each_other(bank)
    waves_through(bank)
    report = week(bank)
    assert report.findings == ()
    assert [one.reason for one in report.unjudged if " and " in one.actor] == [
        "not enough history: 14 approvals, 0 weeks of other pairs",
        "not enough history: 5 approvals, 2 weeks of other pairs",
    ]


def test_two_who_always_approve_each_other_are_told_of_when_it_begins() -> None:
    """Where only two may approve a thing they do so week after week; once is enough for an auditor to judge that."""
    bank = quiet()
    for weeks_ago in range(4):
        approve_each_other(bank, weeks_ago)
    assert week(bank).findings == ()
    begun = examine(bank.trail(), MONDAY - timedelta(weeks=3), SUNDAY).findings
    assert min(found.since for found in begun) == "2026-02-09T00:00:00.000000Z"
    assert {found.kind for found in begun} == {"mutual_approvals"}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.kind)
def test_every_measure_can_be_exceeded(measure: Any) -> None:
    """But not one below what can be unusual at all."""
    for number, unusual in ((measure.least - 1, False), (measure.least, True)):
        bank = Bank(random.Random(7))
        for past in range(-OWN_DAYS, 0):
            bank.add(INSIDER, ANALYST, MONDAY + timedelta(days=past, hours=9), "catalog.tag_dataset", "dataset:1")
        for each in range(number):
            bank.add(INSIDER, ANALYST, MONDAY + timedelta(hours=9), "catalog.tag_dataset", f"dataset:{each}0", "blocked")
        assert (measure.kind in {found.kind for found in week(bank).findings}) is unusual


INSTANTS: Final = st.datetimes(datetime(2026, 1, 30), datetime(2026, 3, 8, 23), timezones=st.just(UTC))  # noqa: DTZ001 - as hypothesis wants them
ENTRIES: Final = st.builds(
    Entry,
    action_id=st.uuids().map(str),
    at=INSTANTS,
    actor=st.sampled_from(["usr-a", "usr-b", "agt-c"]),
    role=st.sampled_from([ANALYST, ADMIN]),
    command=st.sampled_from(["catalog.tag_dataset", "access.change_roles", "approvals.request_approval", "approvals.approve_request"]),
    stream=st.sampled_from([f"approval:{number}" for number in range(9)]),
    outcome=st.sampled_from(["allowed", "blocked", "requires_approval"]),
    high_pii=st.sampled_from([(), ("dataset:1",), ("dataset:1", "dataset:2")]),
)


@holds_for(st.lists(ENTRIES, max_size=120), st.integers(1, 8))
def test_whatever_happened_a_finding_rests_on_it(entries: list[Entry], times: int) -> None:
    repeated = [replace(entry, action_id=f"{entry.action_id}-{time}") for entry in entries for time in range(times)]
    trail = Trail(sorted(repeated, key=lambda entry: entry.at), MONDAY - timedelta(days=28))
    report = examine(trail, MONDAY, SUNDAY)
    done = {entry.action_id: entry for entry in repeated}
    assert len({found.id for found in report.findings}) == len(report.findings)
    for found in report.findings:
        assert all(done[action_id].actor == found.actor or found.counterpart for action_id in found.action_ids)
        assert 0 < len(found.action_ids) <= found.actions
        assert found.score >= UNUSUAL
        assert all(usual.spread > 0 and usual.count > 0 for usual in found.usual)


# -- through the ledger, the API and the inbox

AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
DEPUTY: Final = Asker("usr-dep", "acme", frozenset({Role.AUDITOR, Role.ANALYST}))
ANALYSTS: Final = [Asker(f"usr-ana{number}", "acme", frozenset({Role.ANALYST})) for number in range(4)]
EVE: Final = ANALYSTS[0]
YESTERDAY: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


async def lived(dsn: str, folder: Path) -> list[str]:
    """Three ordinary weeks; then, at night, one analyst reads all that is personal. Answers the ids of these actions."""
    stolen: list[str] = []
    now = YESTERDAY - timedelta(days=40)
    ledger = await open_ledger(dsn, FileKeystore.open(folder / "keys"), clock=lambda: now)
    async with policies(folder / "policies") as engine:
        path = CommandPath(ledger, engine, deciders())

        async def do(*asked: tuple[Asker, Command]) -> list[str]:
            outcomes = await asyncio.gather(*(path.handle(Ask(command, by, uuid7(), now)) for by, command in asked))
            assert {outcome.outcome for outcome in outcomes} == {"allowed"}, outcomes
            return [outcome.action_id for outcome in outcomes]

        people = [AUD, DEPUTY, *ANALYSTS]
        await do(*((ADM, RegisterActor(actor_id=one.actor, kind=one.kind, granted_roles=tuple(one.roles))) for one in people))
        await do(*((ADM, personal(f"d{number}")) for number in range(20)))
        for past in range(21, -1, -1):
            now = YESTERDAY - timedelta(days=past) + timedelta(hours=3)
            if past == 0:
                await do(*((DEPUTY, reading(DEPUTY, f"d{number % 3}")) for number in range(5)))
                stolen = await do(*((EVE, reading(EVE, f"d{number}")) for number in range(20)))
            now += timedelta(hours=9)
            await do(*((one, reading(one, f"d{(past + number) % 3}")) for one in people[1:] for number in range(3)))
            await do((ADM, ChangeRoles(actor_id=AUD.actor, granted_roles=tuple(AUD.roles))))
        await do((ADM, RegisterActor(actor_id="usr-new", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,))))
    await catch_up(dsn, ledger)
    await ledger.close()
    return stolen


def personal(dataset_id: str) -> RegisterDataset:
    described = {"name": dataset_id, "domain": "crm", "pii_level": "high", "jurisdiction": "EU"}
    return RegisterDataset.model_validate({"dataset_id": dataset_id, **described})


def reading(by: Asker, dataset_id: str) -> RecordUsage:
    return RecordUsage(dataset_id=dataset_id, used_by=by.actor)


@dataclass(frozen=True)
class Robbed:
    """A bank with an insider: where it lies, and what the insider did."""

    dsn: str
    home: Path
    stolen: list[str]


@pytest.fixture
async def robbed(database_url: str, tmp_path: Path) -> Robbed:
    return Robbed(database_url, tmp_path, await lived(database_url, tmp_path))


async def found_by(aureus: Aureus, by: Asker = AUD, **parameters: Any) -> Any:
    response = await aureus.get("/v1/audit/anomalies", by, **parameters)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.anyio
async def test_the_ledger_tells_on_an_insider(robbed: Robbed, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(robbed.dsn, robbed.home, reacting=False) as aureus:
        report = await found_by(aureus)
        assert {(one["kind"], one["actor"]) for one in report["findings"]} == {
            ("many_high_pii", EVE.actor),
            ("unusual_hours", EVE.actor),
            ("many_streams", EVE.actor),
            ("busy_hour", EVE.actor),
            ("unusual_hours", DEPUTY.actor),
        }
        assert report["found"] == len(report["findings"]) == 5
        personal_data = next(one for one in report["findings"] if one["kind"] == "many_high_pii")
        assert (personal_data["value"], personal_data["actions"], set(personal_data["action_ids"])) == (20, 20, set(robbed.stolen))
        entry = (await aureus.get(f"/v1/actions/{personal_data['action_ids'][0]}", AUD)).json()
        assert (entry["actor_id"], entry["action"]) == (EVE.actor, "catalog.record_usage")

        assert (await found_by(aureus, actor=DEPUTY.actor))["found"] == 1
        assert (await found_by(aureus, actor="usr-ana1"))["found"] == 0
        assert (await found_by(aureus, until=(YESTERDAY - timedelta(days=1)).date().isoformat()))["found"] == 0
        day = YESTERDAY.date().isoformat()
        assert [(await found_by(aureus, since=day, until=day))["found"], report["notes"]] == [5, []]
        before = (await aureus.get(f"/v1/actions/{robbed.stolen[0]}", AUD)).json()["position"] - 20
        assert (await found_by(aureus, as_of=before))["found"] == 0

        monkeypatch.setattr("api.audit.read_trail", partial(read_trail, limit=60))
        cut = await found_by(aureus)
        assert (cut["actions_read"], cut["found"], cut["unjudged"] != []) == (60, 0, True)
        assert cut["notes"] == [f"There are more actions than one look takes in: those before {cut['history_since']} were left out."]
        assert cut["history_since"] > report["history_since"]


@pytest.mark.anyio
async def test_a_trail_knows_what_was_used_before_it_began(robbed: Robbed) -> None:
    async with running(robbed.dsn, robbed.home, reacting=False) as aureus:
        trail = await read_trail(aureus.services.reads, "acme", YESTERDAY - timedelta(days=28), datetime.now(UTC))
        assert trail.used_before == {(ADM.actor, "access.register_actor")}
        assert [entry.at for entry in trail.entries] == sorted(entry.at for entry in trail.entries)
        whole = await read_trail(aureus.services.reads, "acme", YESTERDAY - timedelta(days=41), datetime.now(UTC))
        assert (whole.used_before, len(whole.entries) > len(trail.entries), whole.whole) == (frozenset(), True, True)
        assert (await read_trail(aureus.services.reads, "another", YESTERDAY, datetime.now(UTC))).entries == []


IMPOSSIBLE: Final = (
    {"since": "yesterday"},
    {"since": "2026-02-30"},
    {"since": "2026-03-03T14:00:00"},
    {"since": "0001-01-01"},
    {"since": "0001-01-01T00:00:00+14:00", "until": "0001-01-01T00:00:00+14:00"},
    {"since": "9999-12-31"},
    {"since": "2026-01-01", "until": "2025-12-31"},
    {"since": "2000-01-01"},
    {"until": ""},
    {"until": "' OR 1=1 --"},
)


@pytest.mark.anyio
async def test_auditors_and_administrators_ask_for_a_time_that_can_be_looked_at(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(ADM, AUD, EVE)
        assert (await aureus.get("/v1/audit/anomalies", EVE)).status_code == 403
        fresh = await found_by(aureus, ADM)
        assert (fresh["found"], [one["reason"] for one in fresh["unjudged"]]) == (
            0,
            ["not enough history: 0 days of its own, and too few of its role"],
        )
        for parameters in IMPOSSIBLE:
            response = await aureus.get("/v1/audit/anomalies", AUD, **parameters)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (422, "invalid_parameter"), parameters
            assert error["details"]["field"] in parameters
            assert error["details"]["remedy"]


@pytest.mark.anyio
async def test_auditors_are_told_once_and_not_about_themselves(robbed: Robbed) -> None:
    async with running(robbed.dsn, robbed.home) as aureus:
        services = aureus.services
        await eventually(services.ledger, lambda events: len([one for one in events if isinstance(one.event, NotificationSent)]) == 9)
        await services.wait_for(services.ledger.head.size)
        inboxes = {one.actor: await inbox(aureus, one) for one in (AUD, DEPUTY, EVE)}
        assert [len(rows) for rows in inboxes.values()] == [5, 4, 0]
        assert not any(row["about"] == f"actor:{DEPUTY.actor}" for row in inboxes[DEPUTY.actor])
        told = next(row for row in inboxes[AUD.actor] if "many high pii" in row["subject"])
        assert (told["about"], told["action_id"] in robbed.stolen, told["sent_by"]) == (f"actor:{EVE.actor}", True, ACTOR)
        assert told["text"].endswith(f"Look: aureus audit anomalies --since {YESTERDAY.date()} --actor {EVE.actor}")
        rows = Rows(services.reads)
        assert await tell_auditors(rows, datetime.now(UTC)) == [], "what was told is not told again"
        assert {entry.actor for entry in (await rows.trail("acme", YESTERDAY, datetime.now(UTC))).entries} == {
            one.actor for one in (ADM, DEPUTY, *ANALYSTS)
        }, "what Aureus itself did only follows from what others did"


async def inbox(aureus: Aureus, of: Asker) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await aureus.get("/v1/notifications", of, kind="anomaly_found")).json()["items"]
    return rows


def test_the_command_line_tells_each_finding_with_where_to_look(home: Path, server: Server) -> None:  # noqa: F811 - fixtures
    bank = quiet()
    reads_everything(bank)
    found = one(week(bank), "many_actions")
    report = {
        "since": "2026-03-02T00:00:00.000000Z",
        "until": "2026-03-08T23:00:00.000000Z",
        "history_since": "2026-02-02T00:00:00.000000Z",
        "actions_read": 7000,
        "found": 1,
        "findings": [asdict(found)],
        "unjudged": [{"actor": "usr-new", "reason": "not enough history: 3 days of its own, and too few of its role"}],
        "notes": ["Some were left out."],
    }
    server.will("GET", "/v1/audit/anomalies", (200, report))
    told = aureus("audit anomalies --since 2026-03-02 --actor usr-analyst0")
    (asked,) = server.asked
    assert asked.query == {"since": "2026-03-02", "actor": "usr-analyst0"}
    for part in ("1 finding from 2026-03-02 to 2026-03-08", "since 2026-02-02 (7000 actions)", f"score {found.score}", found.explanation):
        assert part in told.stdout
    assert f"actions {' '.join(found.action_ids[:3])} and {found.actions - 3} more" in told.stdout
    assert told.stderr.splitlines()[1:] == [
        "usr-new: not enough history: 3 days of its own, and too few of its role.",
        "Some were left out.",
    ]
    assert json.loads(aureus("--json audit anomalies").stdout)["findings"][0]["id"] == found.id
