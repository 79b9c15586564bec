"""What an export would hand to its renderings: a ledger's events, made through the one command path over a few weeks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from api.services import deciders
from commands.access import ChangeRoles, RegisterActor
from commands.agents import Delegate, RegisterAgent, RequestAction, StopAgent
from commands.approvals import ApproveRequest, RejectRequest
from commands.budgets import CommitFunds, FundBudget, OpenBudget, ReleaseFunds, ReserveFunds
from commands.catalog import ChangeSchema, RecordLineage, RecordRefresh, RegisterDataset, RemoveLineage
from commands.evidence import RegisterArtifact
from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from commands.pipelines import DeployVersion, RegisterPipeline, ReportFailure, RetirePipeline
from commands.policies import ProposePolicy
from domain.agents import DatasetFacts
from domain.catalog import ColumnLineage, ColumnSpec, Environment, Jurisdiction, PiiLevel, Upstream
from domain.kernel import Asker, Command
from domain.pipelines import Checks, Model
from domain.policies import Rule
from domain.values import ActorKind, Role, uuid7
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_memory_ledger
from infra.policy import PolicyEngine
from infra.views import About, ViewEvent
from tests.support.kernel import ADM, ANA, APP, BEN, EVERYTHING

LEDGER: Final = "aureus.example/views"
BEGINNING: Final = datetime(2026, 4, 1, 8, 0, tzinfo=UTC)
CLEANER: Final = Asker("agt-cleaner", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
HOSTILE: Final = "<script>alert('Müller & \"Söhne\"')</script>"
"""What somebody typed, and what no rendering may take for markup."""
ARTIFACT: Final = "ab" * 32
SAMPLES: Final = Path(__file__).parents[1] / "golden" / "events"


@dataclass
class Weeks:
    """Commands asked one after another, each a few hours after the last."""

    path: CommandPath
    at: datetime

    def clock(self) -> datetime:
        return self.at

    async def ask(self, command: Command, by: Asker = ANA, hours: int = 5, **circumstances: Any) -> Outcome:
        self.at += timedelta(hours=hours)
        return await self.path.handle(Ask(command=command, by=by, action_id=uuid7(), at=self.at, **circumstances))

    async def done(self, command: Command, by: Asker = ANA, **circumstances: Any) -> Outcome:
        outcome = await self.ask(command, by, **circumstances)
        assert outcome.outcome == "allowed", (command, outcome.code, outcome.message)
        return outcome

    async def refused(self, command: Command, by: Asker = ANA) -> None:
        outcome = await self.ask(command, by)
        assert outcome.outcome == "blocked", (command, outcome)


async def governed(folder: Path, engine: PolicyEngine) -> list[ViewEvent]:
    """The events of some weeks: data, money, people, agents, pipelines and policies, allowed, parked and refused."""
    weeks: Weeks | None = None
    ledger = await open_memory_ledger(FileKeystore.open(folder / "keys"), LEDGER, lambda: weeks.at if weeks else BEGINNING)
    try:
        weeks = Weeks(CommandPath(ledger, engine, deciders()), BEGINNING)
        for part in (_people, _data, _money, _agents, _pipelines):
            await part(weeks)
        return await view_events(ledger)
    finally:
        await ledger.close()


async def view_events(ledger: Ledger) -> list[ViewEvent]:
    return [ViewEvent(stored.position, orjson.loads(stored.body), stored.leaf) for stored in await ledger.entries(0, EVERYTHING)]


async def _people(weeks: Weeks) -> None:
    await weeks.done(RegisterActor(actor_id="usr-eve", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,), display_name="Eve"), ADM)
    await weeks.done(ChangeRoles(actor_id="usr-eve", granted_roles=(Role.VIEWER, Role.AUDITOR)), ADM)
    await weeks.refused(RegisterActor(actor_id="usr-mal", kind=ActorKind.PERSON, granted_roles=(Role.ADMIN,)), ANA)


async def _data(weeks: Weeks) -> None:
    for dataset_id, pii in (("crm.people", PiiLevel.HIGH), ("sales.orders", PiiLevel.LOW), ("sales.report", PiiLevel.NONE)):
        spec: dict[str, Any] = {"pii_level": pii, "jurisdiction": Jurisdiction.EU, "description": HOSTILE, "domain": "sales"}
        await weeks.done(RegisterDataset(dataset_id=dataset_id, name=dataset_id, **spec))
    columns = (ColumnSpec(name="id", type="integer"), ColumnSpec(name="email", type="text", pii=PiiLevel.HIGH, description="Where"))
    await weeks.done(ChangeSchema(dataset_id="crm.people", columns=columns))
    people = Upstream(dataset_id="crm.people", columns=(ColumnLineage(column="who", upstream_column="id"), ColumnLineage(column="all")))
    await weeks.done(ChangeSchema(dataset_id="sales.orders", columns=(ColumnSpec(name="who"), ColumnSpec(name="all"))))
    await weeks.done(RecordLineage(dataset_id="sales.orders", upstream=people))
    await weeks.done(RecordLineage(dataset_id="sales.report", upstream=Upstream(dataset_id="sales.orders")))
    await weeks.done(RemoveLineage(dataset_id="sales.report", upstream_id="sales.orders"))
    await weeks.done(RecordRefresh(dataset_id="sales.orders", refreshed_at=weeks.at, row_count=1_000))
    await weeks.done(RegisterArtifact(sha256=ARTIFACT, size_bytes=42, name="contract.yaml", kind="data_contract"))


async def _money(weeks: Weeks) -> None:
    await weeks.done(OpenBudget(budget_id="lake", label=HOSTILE, currency="EUR", limit_minor=100_000), APP)
    await weeks.done(OpenBudget(budget_id="lake.ingest", label="Ingest", currency="EUR", limit_minor=60_000), APP)
    await weeks.done(OpenBudget(budget_id="alp", label="Alp", currency="CHF", limit_minor=50_000), APP)
    await weeks.done(FundBudget(budget_id="lake", amount_minor=20_000), APP)
    for amount, spent in ((30_000, 25_000), (20_000, None), (5_000, 0)):
        held = (await weeks.done(ReserveFunds(budget_id="lake.ingest", amount_minor=amount))).events[0]["data"]["reservation_id"]
        if spent == 0:
            await weeks.done(ReleaseFunds(budget_id="lake.ingest", reservation_id=held))
        else:
            await weeks.done(CommitFunds(budget_id="lake.ingest", reservation_id=held, spent_minor=spent))
    await weeks.refused(ReserveFunds(budget_id="lake", amount_minor=900_000))
    await weeks.refused(OpenBudget(budget_id="nope", label="No", currency="ZZZ", limit_minor=1), APP)
    francs = ReserveFunds(budget_id="alp", amount_minor=7_000)
    approval_id = await _parked(weeks, francs)
    await weeks.done(ApproveRequest(approval_id=approval_id, comment="Fine"), APP)
    await weeks.done(francs, approval_id=approval_id, artifacts=(ARTIFACT,))
    await weeks.done(RejectRequest(approval_id=await _parked(weeks, francs, BEN), comment=HOSTILE), APP)
    await _parked(weeks, ReserveFunds(budget_id="alp", amount_minor=8_000))


async def _parked(weeks: Weeks, command: Command, by: Asker = ANA) -> str:
    outcome = await weeks.ask(command, by)
    assert outcome.approval is not None, outcome
    return str(outcome.approval["approval_id"])


async def _agents(weeks: Weeks) -> None:
    for agent_id in ("agt-boss", "agt-cleaner"):
        await weeks.done(RegisterAgent(agent_id=agent_id, label=agent_id, purpose="Keep it tidy", model="m-1", owner="usr-ana"), ADM)
    await weeks.done(Delegate(agent_id="agt-cleaner", delegated_by="agt-boss"), ADM)
    facts = DatasetFacts(dataset_id="crm.people", pii_level="high", jurisdiction="EU", environment="production", status="active")
    call: dict[str, Any] = {
        "agent_id": "agt-cleaner",
        "tool": "sql",
        "datasets": ("crm.people",),
        "purpose": "Find doubles",
        "facts": (facts,),
    }
    await weeks.done(RequestAction(request_id="r1", **call), CLEANER)
    await weeks.done(StopAgent(agent_id="agt-boss", reason=HOSTILE), APP)
    await weeks.refused(RequestAction(request_id="r2", **call), CLEANER)


async def _pipelines(weeks: Weeks) -> None:
    await weeks.done(RegisterPipeline(pipeline_id="report", label="Report", domain="sales", environment=Environment.PRODUCTION))
    models = (Model(name="report", sql="select 1 -- </script>"),)
    checked = {"unit_tests": Checks(count=1), "dq_checks": Checks(count=2)}
    await weeks.refused(DeployVersion(pipeline_id="report", models=models))
    await weeks.done(DeployVersion(pipeline_id="report", models=models, inputs=("sales.orders",), outputs=("sales.report",), **checked))
    await weeks.done(ReportFailure(pipeline_id="report", reason="Doubles rows"))
    await weeks.done(RetirePipeline(pipeline_id="report", reason="Unread"))
    rule = Rule(outcome="block", reason="Not in April")
    await weeks.done(ProposePolicy(policy_id="april", type="access", title="April", rule=rule), ADM)


def one_of_each() -> list[ViewEvent]:
    """Every event there ever was, in every shape it ever had: the golden samples, and one of a name that nobody knows."""
    told = [(*path.stem.rsplit(".v", 1), json.loads(path.read_text())) for path in sorted(SAMPLES.glob("*.json"))]
    told.append(("marvels.rain_made", "1", {"where": "there"}))
    return [view_event(position, name, data, int(schema)) for position, (name, schema, data) in enumerate(told, 1)]


def view_event(position: int, name: str, data: Any, schema: int = 1, **members: Any) -> ViewEvent:
    """An event with a body as the ledger would write it, the same every time."""
    body = {
        "_sd": [],
        "actor": "usr-ana",
        "at": f"2026-03-03T14:{position // 60:02}:{position % 60:02}.000000Z",
        "causation": f"01990000-0000-7000-8000-{position:012}",
        "correlation": f"01990000-0000-7000-8000-{position:012}",
        "data": data,
        "id": f"01990000-0000-7000-9000-{position:012}",
        "key": "ab" * 32,
        "ledger": LEDGER,
        "prev": "",
        "schema": schema,
        "stream": f"thing:{position}",
        "tenant": "acme",
        "type": name,
        "v": 1,
        "version": 1,
    }
    return ViewEvent(position, body | members, position.to_bytes(32, "big"))


def about(events: list[ViewEvent], **said: Any) -> About:
    """What an export of these events would say of itself."""
    whole: dict[str, Any] = {
        "ledger": LEDGER,
        "tenant": "acme",
        "export_id": "exp-1",
        "recipient": "Data protection authority",
        "created_at": "2026-07-01T09:00:00.000000Z",
        "selection": {"datasets": [], "agents": [], "actors": [], "policies": [], "jurisdictions": [], "from": None, "to": None},
        "after": 0,
        "until": len(events),
        "checkpoint_size": len(events),
        "checkpoint_root": "5FNSRstymaKaMtSjQ9rXFuXvLjIbUYF9yW+dbf2XOps=",
        "counts": {"entries": len(events)},
    }
    return About(**(whole | said))
