"""One realistic sample of every event, with every field filled in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from domain import (
    actions,
    agents,
    approvals,
    archive,
    backups,
    budgets,
    catalog,
    evidence,
    exports,
    foreign,
    keys,
    notifications,
    pipelines,
    policies,
    reactions,
    replays,
    sessions,
    vault,
)
from domain.kernel import Event, JsonObject
from domain.values import ActorKind, Role
from tests.support.access_samples import access_samples, grant_samples, group_samples
from tests.support.hook_samples import hook_samples
from tests.support.job_samples import duty_samples, job_samples
from tests.support.subject_samples import subject_samples

AT = datetime(2026, 3, 3, 14, 0, tzinfo=UTC)
LATER = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
ACTION = "01990000-0000-7000-8000-000000000001"
APPROVAL = "apr-7f3a"
CUSTOMERS = "model.jaffle_shop.customers"
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEY = "vjSIFuLNB8PIkq6FKvrEdH0UYkMdDVB0TK8nQnYEYws="
SIGNATURE = "mHX9Rr1Gr1p1uZ8pXrY0uJ1Z3rH2m5a9a8qGQbJm0vQ8O3eT2dXr5c1kYw4l7b6n0sU9i2o3p4q5r6s7t8u9Cw=="


def _actions() -> Iterator[Event]:
    intent = actions.Intent(
        command="catalog.deprecate_dataset",
        digest=SHA,
        stream=f"dataset:{CUSTOMERS}",
        seen_version=4,
        roles=(Role.ANALYST,),
        kind=ActorKind.PERSON,
        inputs={"dataset_id": CUSTOMERS, "reason": "Ersetzt durch customers_v2"},
        reason="Zweite Fassung ist geprüft",
    )
    results = (actions.PolicyResult(policy="catalog.pii", outcome="require_approval", reason="high PII"),)
    output = actions.Output(type="catalog.dataset_deprecated", stream=f"dataset:{CUSTOMERS}", version=5)
    checked: tuple[actions.GuardStep, ...] = (("IDLE", 0), ("INTENT_VALIDATION", 45), ("POLICY_CHECK", 61))
    question = {"action": intent.command, "actor": {"kind": "person", "roles": ["analyst"]}, "facts": {"pii_level": "high"}, "recent": 64}
    signature = actions.RequestSignature(key_id=SHA, nonce=ACTION, at="2026-03-03T13:59:58.000000Z", sig=SIGNATURE)
    yield actions.ActionAllowed(
        intent=intent,
        policy_version="1.4.0",
        policy_results=results,
        guard=(*checked, ("EXECUTION", 820), ("EVIDENCE_GEN", 860), ("COMPLETE", 871)),
        question=question,
        outputs=(output,),
        artifacts=(SHA,),
        approval_id=APPROVAL,
        snapshot=actions.Snapshot(stream=f"dataset:{CUSTOMERS}", version=4, sha256=SHA),
        signature=signature,
    )
    yield actions.ActionBlocked(
        intent=intent,
        policy_version="1.4.0",
        policy_results=results,
        guard=(*checked, ("EXECUTION", 820), ("BLOCKED", 833)),
        question=question,
        code="dataset_deprecated",
        message="The dataset is deprecated already.",
        facts={"field": "dataset_id", "remedy": "Nothing is left to do."},
        artifacts=(SHA,),
        signature=signature,
    )
    yield actions.ActionParked(
        intent=intent,
        policy_version="1.4.0",
        policy_results=results,
        guard=checked,
        question=question,
        approval_id=APPROVAL,
        approver_roles=(Role.APPROVER,),
        quorum=2,
        artifacts=(SHA,),
        required_evidence=("data_contract",),
        signature=signature,
    )


def _agents() -> Iterator[Event]:
    yield agents.AgentRegistered(
        agent_id="agt-cleaner", label="Cleaner", purpose="Findet verwaiste Tabellen", model="small-7b", provider="in house", owner="usr-ana"
    )
    yield agents.AgentDelegated(agent_id="agt-counter", delegated_by="agt-cleaner")
    yield agents.DelegationRevoked(agent_id="agt-counter", delegated_by="agt-cleaner")
    yield agents.AgentStopped(agent_id="agt-cleaner", reason="It reserves money for tables that nobody uses", stopped_by="usr-ana")
    yield agents.AgentResumed(agent_id="agt-cleaner", reason="Its list of tables was mended")
    facts = agents.DatasetFacts(
        dataset_id=CUSTOMERS,
        pii_level="high",
        jurisdiction="EU",
        environment="production",
        status="active",
        contract="active",
        fresh=False,
        lineage_depth=2,
    )
    yield agents.ActionRequested(request_id="r-1", agent_id="agt-cleaner", tool="sql.query", purpose="Count rows", datasets=(facts,))


def _approvals() -> Iterator[Event]:
    yield approvals.ApprovalRequested(
        approval_id=APPROVAL,
        type="action",
        description="Deprecate the customers model",
        risk_level="high",
        requester="agt-cleaner",
        requester_owner="usr-ana",
        action_digest=SHA,
        command="catalog.deprecate_dataset",
        inputs={"dataset_id": CUSTOMERS},
        stream=f"dataset:{CUSTOMERS}",
        seen_version=4,
        policy_version="1.4.0",
        approver_roles=(Role.APPROVER,),
        quorum=2,
        escalates_at=AT,
        expires_at=LATER,
        carry_out=True,
    )
    yield approvals.CarryOutRequested(approval_id=APPROVAL)
    agreed: JsonObject = {"approval_id": APPROVAL, "approver": "usr-ben", "on_behalf_of": "usr-app", "roles": (Role.APPROVER,)}
    yield approvals.ApproverAgreed(**agreed, comment="Checked with finance")
    yield approvals.ApprovalGranted(approval_id=APPROVAL, approvers=("usr-app", "usr-adm"))
    yield approvals.ApprovalRejected(**agreed, comment="Still read by finance")
    yield approvals.ApprovalWithdrawn(approval_id=APPROVAL, comment="No longer needed")
    yield approvals.ApprovalExpired(approval_id=APPROVAL)
    yield approvals.ApprovalEscalated(approval_id=APPROVAL, to_roles=(Role.ADMIN,))
    yield approvals.ApprovalVoided(approval_id=APPROVAL, reason="The agent that asked for it was stopped")
    yield approvals.ApprovalUsed(approval_id=APPROVAL, action_id=ACTION, action_digest=SHA)
    yield approvals.AuthorityDelegated(
        delegation_id=ACTION,
        delegator="usr-app",
        delegate="usr-ben",
        types=("dataset_onboard", "pii_access"),
        risk_up_to="medium",
        starts_at=AT,
        ends_at=LATER,
        comment="On holiday",
    )
    yield approvals.AuthorityRevoked(delegation_id=ACTION, comment="Back early")


def _budgets() -> Iterator[Event]:
    path = ("eu-lake.ingest", "eu-lake")
    yield budgets.BudgetOpened(
        budget_id="eu-lake",
        label="Läke of the EU",
        currency="EUR",
        limit_minor=1_000_000,
        thresholds_percent=(80, 100),
        starts_at=AT,
        ends_at=LATER,
    )
    yield budgets.BudgetFunded(budget_id="eu-lake", amount_minor=500_000, limit_minor=1_500_000)
    yield budgets.FundsReserved(budget_id="eu-lake.ingest", reservation_id="res-1", amount_minor=60_000, path=path)
    yield budgets.FundsCommitted(budget_id="eu-lake.ingest", reservation_id="res-1", spent_minor=41_500, returned_minor=18_500, path=path)
    yield budgets.FundsReleased(budget_id="eu-lake.ingest", reservation_id="res-2", amount_minor=10_000, path=path)
    yield budgets.ThresholdReached(budget_id="eu-lake", threshold_percent=80, used_minor=801_000, limit_minor=1_000_000)
    settings = budgets.BudgetSettings(
        label="Läke of the EU", thresholds_percent=(50, 90), starts_at=AT, ends_at=LATER, pause_agents_at_percent=95
    )
    yield budgets.SettingsChanged(budget_id="eu-lake", settings=settings)
    yield budgets.SettingsRolledBack(budget_id="eu-lake", to_version=3, snapshot=settings, snapshot_sha256=SHA)
    yield budgets.BudgetClosed(budget_id="eu-lake.ingest")


def _catalog() -> Iterator[Event]:
    profile = catalog.Profile(
        name="customers",
        description="One row per customer",
        domain="sales",
        pii_level=catalog.PiiLevel.HIGH,
        jurisdiction=catalog.Jurisdiction.EU,
        environment=catalog.Environment.PRODUCTION,
    )
    column = catalog.ColumnSpec(
        name="customer_id",
        type="bigint",
        description="The customer's number",
        nullable=False,
        unique=True,
        primary_key=True,
        pii=catalog.PiiLevel.LOW,
        classification="internal",
    )
    lineage = catalog.ColumnLineage(column="customer_id", upstream_column="id")
    upstream = catalog.Upstream(dataset_id="model.jaffle_shop.stg_customers", columns=(lineage,))
    contract: JsonObject = {"apiVersion": "v3.0.2", "slaProperties": [{"property": "latency", "value": 4, "unit": "d"}]}
    yield catalog.DatasetRegistered(dataset_id=CUSTOMERS, profile=profile)
    yield catalog.DatasetDescribed(dataset_id=CUSTOMERS, profile=profile)
    yield catalog.SchemaChanged(
        dataset_id=CUSTOMERS,
        revision=2,
        columns=(column,),
        added=("customer_id",),
        removed=("id",),
        changed=(catalog.ColumnChange(column="customer_id", attributes=("type", "nullable")),),
    )
    yield catalog.OwnerAssigned(dataset_id=CUSTOMERS, owner_id="usr-ana", role="steward")
    yield catalog.OwnerRemoved(dataset_id=CUSTOMERS, owner_id="usr-ana")
    yield catalog.OwnerContactRecorded(dataset_id=CUSTOMERS, owner_id="own-1", contact_name="Ana", contact_email="ana@example.org")
    yield catalog.TagsChanged(dataset_id=CUSTOMERS, tags=("finance", "gold"))
    yield catalog.LineageRecorded(dataset_id=CUSTOMERS, upstream=upstream)
    yield catalog.LineageRemoved(dataset_id=CUSTOMERS, upstream_id="model.jaffle_shop.stg_customers")
    yield catalog.FreshnessAgreed(dataset_id=CUSTOMERS, freshness_sla="P1DT12H")
    yield catalog.DatasetRefreshed(dataset_id=CUSTOMERS, refreshed_at=AT, row_count=1_856)
    yield catalog.UsageRecorded(dataset_id=CUSTOMERS, used_by="agt-cleaner", query_count=3)
    yield catalog.ContractRecorded(dataset_id=CUSTOMERS, contract=contract)
    yield catalog.TermLinked(dataset_id=CUSTOMERS, column="customer_id", term_id="customer")
    yield catalog.TermUnlinked(dataset_id=CUSTOMERS, column="customer_id", term_id="customer")
    yield catalog.DatasetDeprecated(dataset_id=CUSTOMERS, reason="Replaced", replaced_by="model.jaffle_shop.customers_v2")
    yield catalog.DatasetReinstated(dataset_id=CUSTOMERS)
    settings = catalog.DatasetSettings(
        profile=profile,
        columns=(column,),
        owners={"usr-ana": "steward"},
        tags=("finance", "gold"),
        upstreams=(upstream,),
        meanings=(catalog.ColumnMeaning(column="customer_id", term_id="customer"),),
        freshness_sla="P1DT12H",
        contract=contract,
        deprecation=catalog.Deprecation(reason="Replaced", replaced_by="model.jaffle_shop.customers_v2"),
    )
    yield from _catalog_rolled_back(settings)
    yield catalog.TermDefined(term_id="customer", name="Customer", definition="Whoever has bought once", synonyms=("client", "Kunde"))
    yield catalog.TermRevised(term_id="customer", name="Customer", definition="Whoever has paid once", synonyms=("client",))


def _catalog_rolled_back(settings: catalog.DatasetSettings) -> Iterator[Event]:
    yield catalog.DatasetRolledBack(
        dataset_id=CUSTOMERS,
        to_version=7,
        snapshot=settings,
        snapshot_sha256=SHA,
        revision=4,
        added=("customer_id",),
        removed=("id",),
        changed=(catalog.ColumnChange(column="customer_id", attributes=("type",)),),
        upstreams_removed=("model.jaffle_shop.raw_customers",),
        meanings_removed=settings.meanings,
    )


def _archive() -> Iterator[Event]:
    yield archive.SealingRequested(until=65_536)
    yield archive.SegmentSealed(
        segment_id="000000000001-000000065536",
        first=1,
        last=65_536,
        manifest_sha256=SHA,
        parquet_sha256=SHA,
        parquet_bytes=14_726_701,
        tiles_sha256=SHA,
        root=SHA,
        checkpoint_size=65_540,
    )
    yield archive.SealingFailed(first=65_537, code="disk_refused", reason="Auf der Platte ist kein Platz mehr")


def _exports() -> Iterator[Event]:
    selection = exports.Selection(
        datasets=(CUSTOMERS,),
        agents=("agt-cleaner",),
        actors=("usr-ana",),
        policies=("pii_onboarding",),
        jurisdictions=(catalog.Jurisdiction.EU,),
        starts_at=AT,
        ends_at=LATER,
    )
    profile = exports.Profile(name="ecb-onsite", disclose=("governance",), withhold_types=("access.api_key_issued",))
    yield exports.ExportRequested(
        export_id="exp-1f2e3d4c",
        recipient="Österreichische Nationalbank",
        recipient_kind="regulator",
        everything=False,
        selection=selection,
        profile=profile,
        views=("parquet", "pdf"),
        artifacts=True,
    )
    yield exports.ExportSealed(
        export_id="exp-1f2e3d4c",
        sha256=SHA,
        size_bytes=141_694_122,
        manifest_sha256=SHA,
        after=1_200,
        until=9_800,
        checkpoint_size=10_240,
        entries=4_711,
        keys=3,
        withheld_entries=2,
        index_position=10_233,
    )
    yield exports.ExportFailed(export_id="exp-1f2e3d4c", code="artifact_lost", reason="Ein Nachweis fehlt")
    yield exports.ExportCancelled(export_id="exp-1f2e3d4c", comment="The wrong quarter")
    yield exports.PackDownloaded(export_id="exp-1f2e3d4c", sha256=SHA, downloaded_by="usr-ana", first_byte=0, last_byte=141_694_121)
    yield exports.PackWithdrawn(export_id="exp-1f2e3d4c", sha256=SHA, subject_id="cus-7f3a", ordered_position=4_711)
    yield exports.ProfileDefined(profile=profile)
    yield exports.IndexCommitted(size=10_232, topics=311, root=SHA, rules=1, keys_version=3, keys_leaf=SHA)


def _sessions() -> Iterator[Event]:
    ana, session = "usr-ana", f"ses-{SHA[:32]}"
    yield sessions.SessionOpened(
        session_id=session,
        actor_id=ana,
        refresh_sha256=SHA,
        refresh_until=LATER,
        ends_at=LATER,
        method="password+totp",
        scopes=("sessions",),
    )
    yield sessions.SessionRefreshed(session_id=session, refresh_sha256=SHA, refresh_until=LATER)
    yield sessions.RefreshTokenReused(session_id=session, actor_id=ana, reused_sha256=SHA)
    yield sessions.SessionEnded(session_id=session, actor_id=ana, reason="logout")
    yield sessions.PasswordSet(actor_id=ana, must_change=True)
    yield sessions.PasswordChanged(actor_id=ana)
    yield sessions.LoginsSlowed(actor_id=ana, failed_logins=6, wait_seconds=1)
    yield sessions.SecondFactorEnrolled(actor_id=ana)
    yield sessions.SecondFactorConfirmed(actor_id=ana, recovery_codes=10)
    yield sessions.RecoveryCodeUsed(actor_id=ana, recovery_codes=9)
    yield sessions.SecondFactorRemoved(actor_id=ana)


def _notifications() -> Iterator[Event]:
    yield notifications.NotificationSent(
        notification_id="ntf-7f3a",
        recipient="usr-ana",
        kind="action_blocked",
        subject="agt-cleaner was refused catalog.describe_dataset (policy_blocked)",
        text="Ein Agent ändert nichts in der Produktion.",
        about=f"dataset:{CUSTOMERS}",
        action_id=ACTION,
    )
    yield notifications.NotificationRead(notification_id="ntf-7f3a")
    yield notifications.WebhookAdded(webhook_id="siem", url="https://siem.example.org/aureus", kinds=("action_blocked",), secret_sha256=SHA)
    yield notifications.WebhookRemoved(webhook_id="siem")


def _pipelines() -> Iterator[Event]:
    profile = pipelines.PipelineProfile(
        label="Customers, daily",
        domain="sales",
        environment=catalog.Environment.PRODUCTION,
        owner="usr-ana",
        pii_level=catalog.PiiLevel.HIGH,
        jurisdiction=catalog.Jurisdiction.EU,
    )
    deployment = pipelines.Deployment(
        version=3,
        models=(pipelines.Model(name="customers", sql="select id as customer_id from stg_customers"),),
        unit_tests=pipelines.Checks(count=4, sha256=SHA),
        dq_checks=pipelines.Checks(count=2, sha256=SHA),
        inputs=("model.jaffle_shop.stg_customers",),
        outputs=(CUSTOMERS,),
        code_sha256=SHA,
    )
    settings = pipelines.PipelineSettings(profile=profile, deployment=deployment, retired=False)
    yield pipelines.PipelineRegistered(pipeline_id="customers-daily", profile=profile)
    yield pipelines.VersionDeployed(pipeline_id="customers-daily", deployment=deployment, replaces=2)
    yield pipelines.DeploymentFailed(pipeline_id="customers-daily", version=3, reason="Every customer came out twice")
    yield pipelines.PipelineRetired(pipeline_id="customers-daily", reason="Nobody reads it", version=3)
    yield pipelines.PipelineRolledBack(pipeline_id="customers-daily", to_version=3, snapshot=settings, snapshot_sha256=SHA, replaces=5)


def _reactions() -> Iterator[Event]:
    cause = reactions.Cause(position=4_711, event="budgets.threshold_reached", stream="budget:eu-lake")
    inputs: JsonObject = {"budget_id": "eu-lake", "reservation_id": "res-1"}
    about: JsonObject = {"saga_id": SHA[:32], "step": "stop_agents"}
    failure = reactions.Failure(command="budgets.release_funds", stream="budget:eu-lake", code="policy_blocked", message="Policy refuses.")
    answer = reactions.Answer(command="budgets.release_funds", stream="budget:eu-lake", action_id=ACTION, code="reservation_not_found")
    yield reactions.DeadLetterRecorded(
        letter_id=SHA[:32],
        reaction="stopped_agent_is_cleared",
        cause=cause,
        saga_id=SHA[:32],
        command="budgets.release_funds",
        inputs=inputs,
        on_behalf_of="usr-ana",
        code="policy_blocked",
        message="Policy refuses budgets.release_funds.",
        attempts=5,
        first_tried_at=AT,
    )
    yield reactions.DeadLetterReplayRequested(letter_id=SHA[:32], replay=1)
    yield reactions.DeadLetterReplayed(letter_id=SHA[:32], replay=1, action_ids=(ACTION,))
    yield reactions.DeadLetterReplayFailed(letter_id=SHA[:32], replay=1, code="budget_not_found", message="No budget lake is open.")
    yield reactions.DeadLetterDiscarded(letter_id=SHA[:32], reason="Released by hand")
    yield reactions.SagaStarted(saga_id=SHA[:32], saga="spent_budget_pauses_agents", cause=cause, deadline_at=LATER)
    yield reactions.StepDone(**about, undo=False, answers=(answer,), failures=(failure,))
    yield reactions.StepFailed(**about, undo=False, command_digest=SHA, attempt=2, failure=failure, retry_at=AT)
    yield reactions.StepParked(**about, undo=False, command_digest=SHA, approval_id=APPROVAL)
    yield reactions.SagaTimedOut(saga_id=SHA[:32])
    yield reactions.SagaCompensating(**about, code="saga_timed_out", message="Its steps were not done in time.")
    yield reactions.SagaCompleted(saga_id=SHA[:32])
    yield reactions.SagaCompensated(saga_id=SHA[:32], left_undone=1)


def _others() -> Iterator[Event]:
    yield evidence.ArtifactRegistered(
        sha256=SHA, size_bytes=18_211, media_type="application/json", name="run_results.json", kind="test_result", passed=41, failed=1
    )
    yield evidence.PackSealed(action_id=ACTION, position=7, json_sha256=SHA, json_bytes=1_318, markdown_sha256=SHA, markdown_bytes=1_874)
    yield foreign.EventStored(
        originator_id="6b8e1c5e-3c1b-4a52-8a3e-6a4f3f0f4a11",
        originator_kind="uuid",
        originator_version=1,
        topic="kennel.domain:Dog.Registered",
        state="eyJuYW1lIjoiRmlkbyJ9",
    )
    yield keys.KeyAdded(
        key_id=SHA,
        algorithm="ed25519",
        role="actor",
        custody="client",
        public=KEY,
        proof=SIGNATURE,
        holder="acme/usr-ana",
        authorised_by=SHA,
        authorisation=SIGNATURE,
    )
    yield keys.KeyRotated(
        old_key_id=SHA,
        key_id=SHA[::-1],
        algorithm="ed25519",
        role="actor",
        custody="kms",
        public=KEY,
        proof=SIGNATURE,
        consent=SIGNATURE,
        holder="acme/usr-ana",
    )
    yield keys.KeyRevoked(key_id=SHA, reason="Der Laptop ist gestohlen", compromised_since=4711)


def _policies() -> Iterator[Event]:
    change = policies.Change(activate=(policies.PolicyRef(policy_id="pii_onboarding", version=2),), retire=("old_rule",))
    rule = policies.Rule(
        outcome="require_approval",
        reason="Personal data of customers needs a second pair of eyes",
        approver_roles=(Role.APPROVER,),
        quorum=2,
        approval_ttl_seconds=3_600,
        required_evidence=("data_contract",),
    )
    scope = policies.Scope(
        domains=("sales",),
        pii_levels=("high",),
        jurisdictions=("EU",),
        environments=("production",),
        actions=("catalog.*",),
        actor_kinds=("person",),
    )
    yield policies.PolicyProposed(
        policy_id="pii_onboarding",
        version=2,
        owner="usr-ana",
        sha256=SHA,
        type="approval",
        title="Zwei Augenpaare für Kundendaten",
        scope=scope,
        rego="package aureus\n",
        tests="package aureus\n",
        rule=rule,
        data={"bank": {"contexts": ["catalog"]}},
    )
    yield policies.DefaultsAdopted(in_force=(policies.PolicyRef(policy_id="pii_onboarding", version=1),))
    yield policies.PoliciesTested(change=change, digest_after=SHA, passed=17, failed=1, problems=("pii.rego:3: no",), report=SHA)
    yield policies.ImpactAnalysed(
        change=change,
        digest_before=SHA,
        digest_after=SHA,
        examined=1_000,
        flips=(policies.Flip(before="allow", after="block", count=3),),
        report=SHA,
        rollback_plan=SHA,
    )
    yield policies.PolicyActivated(policy_id="pii_onboarding", version=2)
    yield policies.PolicySuperseded(policy_id="pii_onboarding", version=1, by_version=2)
    yield policies.PolicyRetired(policy_id="old_rule", version=1)
    yield policies.PoliciesRolledBack(
        to_version=12,
        in_force=(policies.PolicyRef(policy_id="pii_onboarding", version=1),),
        withdrawn=(policies.PolicyRef(policy_id="pii_onboarding", version=2),),
    )


def _backups() -> Iterator[Event]:
    whole: dict[str, Any] = {"backup_id": "backup-5f0c1d2e3a4b", "size": 4_711, "root": SHA, "sha256": SHA}
    yield backups.BackupBegun(backup_id="backup-5f0c1d2e3a4b")
    yield backups.BackupTaken(**whole, size_bytes=1_234_567, artifacts=12, keys=True)
    yield backups.LedgerRestored(**whole, erasures=2)


def _vault() -> Iterator[Event]:
    grant: dict[str, Any] = {"grant_id": "grt-1", "purposes": ("governance",), "subject_id": "cus-1", "reason": "Ticket 17"}
    yield vault.UnmaskingGranted(**grant, actor_id="usr-ana", fields=("display_name",), until=AT)
    yield vault.UnmaskingRevoked(grant_id="grt-1", reason="No longer needed")
    shown = (vault.ShownField(position=17, name="display_name"),)
    yield vault.ValuesDisclosed(**grant, disclosure_id="dsc-1", fields=shown, disclosed_to="usr-ana")
    yield vault.KeyEncryptionKeyRotated(kek="0123456789abcdef", previous="fedcba9876543210")
    yield vault.VaultKeysRewrapped(kek="0123456789abcdef", keys=1_234, webhook_secrets=2, damaged=1)


def _replays() -> Iterator[Event]:
    yield replays.ReplayRequested(replay_id="june", position=4_711, contexts=("catalog", "budgets"))
    table = replays.TableBuilt(context="catalog", table="datasets", rows=311, digest=SHA)
    role = "aureus_replay_june_1f2e3d4c"
    yield replays.ReplayBuilt(
        replay_id="june", position=4_711, schema_prefix="june", role=role, events=4_711, tables=(table,), differing=("budgets",)
    )
    yield replays.ReplayFailed(replay_id="june", code="role_not_possible", reason="Der Benutzer darf keine Rolle anlegen")
    yield replays.ReplayDropped(replay_id="june", comment="The audit is over")
    yield replays.LoginHandedOut(replay_id="june", role=role, handed_to="usr-ana")
    yield replays.QueryRun(replay_id="june", run_by="usr-ana", query_id="who-approved-what", sql_sha256=SHA, rows=0, sqlstate="57014")
    since = replays.Parameter(name="since", description="From then on", default="2026-04-01")
    query = replays.SavedQuery(
        query_id="refused", title="Was abgelehnt wurde", sql="SELECT * FROM events WHERE at >= $1", parameters=(since,)
    )
    yield replays.AuditQuerySaved(query=query)
    yield replays.AuditQueryRetired(query_id="refused")


def samples() -> dict[str, Event]:
    """One sample of every event, by name, with every field filled in."""
    built = (
        *access_samples(),
        *group_samples(),
        *grant_samples(),
        *_actions(),
        *_agents(),
        *_approvals(),
        *_budgets(),
        *_catalog(),
        *_archive(),
        *_backups(),
        *duty_samples(),
        *_exports(),
        *job_samples(),
        *subject_samples(),
        *hook_samples(),
        *_notifications(),
        *_sessions(),
        *_pipelines(),
        *_policies(),
        *_reactions(),
        *_replays(),
        *_vault(),
        *_others(),
    )
    return {event.event_name: event for event in built}
