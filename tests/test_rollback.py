"""Going back: whatever happened, what comes back is what was; money, refreshes and failures stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from hypothesis import given as holds_for
from hypothesis import strategies as st

from commands.budgets import DECIDER as BUDGETS
from commands.budgets import ChangeSettings, CloseBudget, FundBudget, OpenBudget, ReserveFunds, RollBackSettings
from commands.catalog import (
    DATASETS,
    AgreeFreshness,
    AssignOwner,
    ChangeSchema,
    DeprecateDataset,
    DescribeDataset,
    LinkTerm,
    RecordContract,
    RecordLineage,
    RecordRefresh,
    RegisterDataset,
    ReinstateDataset,
    RemoveLineage,
    RemoveOwner,
    RollBackDataset,
    TagDataset,
    UnlinkTerm,
)
from commands.pipelines import DECIDER as PIPELINES
from commands.pipelines import DeployVersion, RegisterPipeline, ReportFailure, RetirePipeline, RollBackPipeline
from domain.budgets import BudgetClosed, BudgetOpened, BudgetSettings, SettingsChanged, SettingsRolledBack
from domain.catalog import ColumnLineage, ColumnSpec, DatasetRolledBack, Environment, Jurisdiction, PiiLevel, Upstream
from domain.differences import differences
from domain.kernel import Command, Decider, Event, JsonObject, Recorded, json_digest
from domain.pipelines import Checks, Model, PipelineRolledBack
from domain.values import Role
from projections.catalog import PROJECTION as CATALOG_READ
from projections.engine import Projection, replay
from projections.pipelines import PROJECTION as PIPELINES_READ
from tests.given import ACTION_ID, ADMIN, AT, Given, given

AnyDecider = Decider[Any, Any, Any]

# -- the law: whatever happened, going back to a version gives what was there, and can itself be gone back on

D: Final = "orders"
COLUMNS: Final = tuple(ColumnSpec(name=name, type="text") for name in ("id", "email", "total"))
VERSIONS: Final = st.integers(1, 12)
NAMES: Final = st.sampled_from(["id", "email", "total"])
UPSTREAMS: Final = st.sampled_from(["raw", "crm"])

DATASET_COMMANDS: Final = st.one_of(
    st.builds(DescribeDataset, dataset_id=st.just(D), name=st.sampled_from(["A", "B"]), pii_level=st.sampled_from(PiiLevel)),
    st.builds(ChangeSchema, dataset_id=st.just(D), columns=st.permutations(COLUMNS).map(lambda all_: tuple(all_[:2]))),
    st.builds(AssignOwner, dataset_id=st.just(D), owner_id=st.sampled_from(["usr-a", "usr-b"]), role=st.sampled_from(["owner", "steward"])),
    st.builds(RemoveOwner, dataset_id=st.just(D), owner_id=st.sampled_from(["usr-a", "usr-b"])),
    st.builds(TagDataset, dataset_id=st.just(D), tags=st.sampled_from([(), ("gold",), ("gold", "pii")])),
    st.builds(
        RecordLineage,
        dataset_id=st.just(D),
        upstream=st.builds(
            Upstream, dataset_id=UPSTREAMS, columns=NAMES.map(lambda name: (ColumnLineage(column=name, upstream_column="x"),))
        ),
    ),
    st.builds(RemoveLineage, dataset_id=st.just(D), upstream_id=UPSTREAMS),
    st.builds(LinkTerm, dataset_id=st.just(D), column=NAMES, term_id=st.sampled_from(["t1", "t2"])),
    st.builds(UnlinkTerm, dataset_id=st.just(D), column=NAMES, term_id=st.sampled_from(["t1", "t2"])),
    st.builds(AgreeFreshness, dataset_id=st.just(D), freshness_sla=st.sampled_from([None, "PT1H"])),
    st.builds(RecordRefresh, dataset_id=st.just(D), refreshed_at=st.just(AT)),
    st.builds(RecordContract, dataset_id=st.just(D), contract=st.sampled_from([{}, {"sla": [1, None]}])),
    st.builds(DeprecateDataset, dataset_id=st.just(D), reason=st.just("old"), replaced_by=st.sampled_from([None, "orders-2"])),
    st.builds(ReinstateDataset, dataset_id=st.just(D)),
    st.builds(RollBackDataset, dataset_id=st.just(D), to_version=VERSIONS),
)
P: Final = "customers"
CHECKED: Final[JsonObject] = {"unit_tests": Checks(count=1), "dq_checks": Checks(count=2)}
PIPELINE_COMMANDS: Final = st.one_of(
    st.builds(
        DeployVersion,
        pipeline_id=st.just(P),
        models=st.sampled_from(["select 1", "select 2"]).map(lambda sql: (Model(name="m", sql=sql),)),
        outputs=st.sampled_from([(), ("a",), ("a", "b")]),
        **{name: st.just(value) for name, value in CHECKED.items()},
    ),
    st.builds(ReportFailure, pipeline_id=st.just(P), reason=st.just("no")),
    st.builds(RetirePipeline, pipeline_id=st.just(P), reason=st.just("no")),
    st.builds(RollBackPipeline, pipeline_id=st.just(P), to_version=VERSIONS),
)
B: Final = "lake"
BUDGET_COMMANDS: Final = st.one_of(
    st.builds(
        ChangeSettings,
        budget_id=st.sampled_from([B, "lake.a"]),
        label=st.sampled_from([None, "A", "B"]),
        thresholds_percent=st.sampled_from([None, (), (50,)]),
        starts_at=st.sampled_from([None, AT]),
    ),
    st.just(OpenBudget(budget_id="lake.a", label="Part", currency="EUR", limit_minor=50)),
    st.builds(ReserveFunds, budget_id=st.sampled_from([B, "lake.a"]), amount_minor=st.integers(1, 60)),
    st.builds(FundBudget, budget_id=st.just(B), amount_minor=st.just(10)),
    st.just(CloseBudget(budget_id="lake.a")),
    st.builds(RollBackSettings, budget_id=st.just(B), to_version=VERSIONS),
)


def begun(decider: AnyDecider, commands: Iterable[Command]) -> Given:
    """What happened when all of these were asked, by somebody who may ask for each; what was refused did not happen."""
    told = given(decider).by(replace(ADMIN, roles=frozenset(Role)))
    for command in commands:
        told = replace(told, history=(*told.history, *told.when(command).events))
    return told


def state(told: Given, version: int | None = None) -> Any:
    return told.decider.replay(told.history[:version])


def check_the_way_back(told: Given, command: Any, own: Any) -> Iterator[tuple[Given, Event, int]]:
    """Goes back to every version there is, and back on that; yields each step taken, with what came of it."""
    there = len(told.history)
    held = own(state(told))
    for version in range(1, there + 1):
        past = own(state(told, version))
        asked = told.when(command(version))
        if past is None or past == held:
            asked.refused("version_unknown" if past is None else "nothing_to_roll_back")
            continue
        assert asked.refusal is None, asked.refusal
        (event,) = asked.events
        assert event.snapshot_sha256 == json_digest(past)  # type: ignore[attr-defined]
        assert type(event).load(event.dump(), event.schema_version) == event
        back = replace(told, history=(*told.history, event))
        assert own(state(back)) == past
        again = back.when(command(there))
        assert own(state(replace(back, history=(*back.history, *again.events)))) == held
        yield back, event, version


def recorded(told: Given) -> Iterator[Recorded[Any]]:
    stream = f"dataset:{D}" if told.decider is DATASETS else f"pipeline:{P}"
    for version, event in enumerate(told.history, 1):
        yield Recorded(version, "acme", stream, version, ACTION_ID, AT, "usr-a", ACTION_ID, None, event)


def read(projection: Projection, told: Given, *without: str) -> dict[Any, Any]:
    """What people read after this history, but for the fields that say what happened and not what is."""
    rows = replay(projection, recorded(told))
    return {
        key: {name: getattr(row, name) for name in row.__slots__ if name not in without}
        for key, row in rows.items()
        if key[0] not in {"dataset_schemas", "pipeline_versions"}
    }


@holds_for(st.lists(DATASET_COMMANDS, max_size=10))
def test_a_dataset_gets_back_what_it_was(commands: list[Command]) -> None:
    told = begun(DATASETS, [RegisterDataset(dataset_id=D, name="Orders", columns=COLUMNS), *commands])
    steps = check_the_way_back(told, lambda version: RollBackDataset(dataset_id=D, to_version=version), DATASETS.snapshot)
    for back, event, version in steps:
        assert isinstance(event, DatasetRolledBack)
        past = replace(told, history=told.history[:version])
        happened = ("schema_version", "last_refresh_at", "recorded_at", "recorded_by")
        assert read(CATALOG_READ, back, *happened) == read(CATALOG_READ, past, *happened)
        assert state(back).last_refresh_at == state(told).last_refresh_at, "that it was refreshed stays so"
        rows = replay(CATALOG_READ, recorded(back))
        now = state(back)
        if now.schema_version:
            assert rows["dataset_schemas", "acme", f"{D}#{now.schema_version}"].columns == rows["datasets", "acme", D].columns


@holds_for(st.lists(PIPELINE_COMMANDS, max_size=10))
def test_a_pipeline_gets_back_what_it_was(commands: list[Command]) -> None:
    told = begun(PIPELINES, [RegisterPipeline(pipeline_id=P, label="C", domain="sales", environment=Environment.PRODUCTION), *commands])
    steps = check_the_way_back(told, lambda version: RollBackPipeline(pipeline_id=P, to_version=version), PIPELINES.snapshot)
    for back, event, version in steps:
        assert isinstance(event, PipelineRolledBack)
        past = replace(told, history=told.history[:version])
        happened = ("status", "failed_versions", "deployed_at", "deployed_by")
        assert read(PIPELINES_READ, back, *happened) == read(PIPELINES_READ, past, *happened)
        statuses = {row.version: row.status for key, row in replay(PIPELINES_READ, recorded(back)).items() if key[0] == "pipeline_versions"}
        runs = [number for number, status in statuses.items() if status in {"running", "failed"}]
        assert runs == [event.snapshot.running] if event.snapshot.running else not runs


@holds_for(st.lists(BUDGET_COMMANDS, max_size=10))
def test_a_budget_gets_its_settings_back_and_keeps_its_money(commands: list[Command]) -> None:
    told = begun(BUDGETS, [OpenBudget(budget_id=B, label="Lake", currency="EUR", limit_minor=100), *commands])

    def own(tree: Any) -> JsonObject | None:
        return (BUDGETS.snapshot(tree) or {}).get(B)

    for back, event, _version in check_the_way_back(told, lambda version: RollBackSettings(budget_id=B, to_version=version), own):
        assert isinstance(event, SettingsRolledBack)
        before, after = state(told), state(back)
        assert after.budgets[B] == replace(before.budgets[B], settings=event.snapshot)
        assert after.budgets.delete(B) == before.budgets.delete(B)
        assert after.reservations == before.reservations


# -- decisions


LAKE = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
RENAMED = SettingsChanged(budget_id="lake", settings=BudgetSettings(label="Sea"))


def test_a_budget_s_settings_change_by_what_is_stated() -> None:
    told = given(BUDGETS, LAKE).by(ADMIN)
    told.when(ChangeSettings(budget_id="lake", label="Sea")).then(RENAMED)
    told.when(ChangeSettings(budget_id="lake", label="Lake")).then()
    told.when(ChangeSettings(budget_id="lake", starts_at=AT, ends_at=AT)).refused("period_is_empty", field="ends_at")


def test_a_closed_budget_s_settings_rest() -> None:
    told = given(BUDGETS, LAKE, RENAMED, BudgetClosed(budget_id="lake")).by(ADMIN)
    told.when(ChangeSettings(budget_id="lake", label="Sea")).refused("budget_closed")
    told.when(RollBackSettings(budget_id="lake", to_version=1)).refused("budget_closed")


def test_a_budget_that_was_not_there_yet_has_nothing_to_go_back_to() -> None:
    part = LAKE.model_copy(update={"budget_id": "lake.a"})
    told = given(BUDGETS, LAKE, part).by(ADMIN)
    told.when(RollBackSettings(budget_id="lake.a", to_version=1)).refused("version_unknown", field="to_version")
    told.when(RollBackSettings(budget_id="lake.a", to_version=3)).refused("version_unknown", latest_version=2)


def test_a_dataset_says_what_vanishes_with_a_rollback() -> None:
    told = begun(
        DATASETS,
        [
            RegisterDataset(dataset_id=D, name="Orders", columns=COLUMNS[:1]),
            ChangeSchema(dataset_id=D, columns=COLUMNS[:2]),
            LinkTerm(dataset_id=D, column="email", term_id="contact"),
            RecordLineage(dataset_id=D, upstream=Upstream(dataset_id="crm")),
        ],
    )
    (event,) = told.when(RollBackDataset(dataset_id=D, to_version=2)).events
    assert isinstance(event, DatasetRolledBack)
    assert (event.revision, event.removed, event.upstreams_removed) == (3, ("email",), ("crm",))
    assert [meaning.term_id for meaning in event.meanings_removed] == ["contact"]


def test_what_others_rely_on_does_not_vanish_from_a_dataset() -> None:
    told = begun(DATASETS, [RegisterDataset(dataset_id=D, name="Orders", columns=COLUMNS[:1]), TagDataset(dataset_id=D, tags=("gold",))])
    command = RollBackDataset(dataset_id=D, to_version=1, broken=("dataset mart makes its column x from id",))
    told.when(command).refused("rollback_breaks_dependents", broken=["dataset mart makes its column x from id"])


def test_a_refusal_stays_one_sentence_however_much_would_break() -> None:
    told = begun(DATASETS, [RegisterDataset(dataset_id=D, name="Orders"), TagDataset(dataset_id=D, tags=("gold",))])
    broken = tuple(f"dataset {'m' * 200}{number} makes its column {'c' * 200} from {'u' * 200}" for number in range(20))
    refusal = told.when(RollBackDataset(dataset_id=D, to_version=1, broken=broken)).refusal
    assert refusal is not None
    assert refusal.message.endswith(", and 17 more.")
    assert len(refusal.message) < 4_000, "what an action's event holds"
    assert refusal.facts["broken"] == list(broken)


def test_what_does_not_fit_into_one_event_comes_back_part_by_part() -> None:
    parts = [{"text": letter * 30_000} for letter in "ab"]
    long = tuple(ColumnSpec(name=f"c{number}", description="x" * 3_000) for number in range(10))
    told = begun(
        DATASETS,
        [
            RegisterDataset(dataset_id=D, name="Orders", columns=long),
            RecordContract(dataset_id=D, contract=parts[0]),
            RecordContract(dataset_id=D, contract=parts[1]),
        ],
    )
    told.when(RollBackDataset(dataset_id=D, to_version=3)).refused("snapshot_too_large", field="to_version")


def test_policies_judge_a_rollback_by_the_stricter_of_now_and_then() -> None:
    told = begun(
        DATASETS,
        [
            RegisterDataset(dataset_id=D, name="Orders", pii_level=PiiLevel.HIGH, jurisdiction=Jurisdiction.EU),
            DescribeDataset(dataset_id=D, pii_level=PiiLevel.NONE),
            DeprecateDataset(dataset_id=D, reason="old"),
        ],
    )
    facts = DATASETS.past_facts(state(told), state(told, 1))
    assert (facts["pii_level"], facts["becomes"]) == ("high", {"pii_level": "high", "deprecated": False})
    assert DATASETS.past_facts(state(told, 1), state(told))["becomes"] == {"pii_level": "none", "deprecated": True}


def test_a_preview_names_each_setting_that_differs() -> None:
    now = {"profile": {"name": "A", "domain": "x"}, "columns": [{"name": "id", "type": "int"}, {"name": "new"}], "tags": ["a"], "sla": None}
    then = {"profile": {"name": "B", "domain": "x"}, "columns": [{"name": "id", "type": "text"}], "tags": []}
    assert list(differences(now, then)) == [
        ("columns.id.type", "int", "text"),
        ("columns.new", {"name": "new"}, None),
        ("profile.name", "A", "B"),
        ("tags", ["a"], []),
    ]
