"""An example of every command that has a route, as the API's description shows it; a test holds each to be valid."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from domain.kernel import JsonObject

_DATASET: Final = "model.jaffle_shop.customers"
_STAGED: Final = "model.jaffle_shop.stg_customers"
_COLUMNS: Final = [
    {"name": "customer_id", "type": "bigint", "nullable": False, "primary_key": True},
    {"name": "email", "type": "text", "pii": "high"},
]
_PROFILE: Final = {"name": "customers", "description": "One row per customer", "domain": "sales", "pii_level": "high", "jurisdiction": "EU"}
_ACCESS: Final[dict[str, JsonObject]] = {
    "access.register_actor": {"actor_id": "agt-cleaner", "kind": "agent", "granted_roles": ["agent"], "owner": "usr-ana"},
    "access.change_roles": {"actor_id": "usr-ana", "granted_roles": ["analyst", "approver"]},
    "access.change_owner": {"actor_id": "agt-cleaner", "owner": "usr-ben"},
    "access.change_tier": {"actor_id": "usr-ana", "tier": "premium"},
    "access.bound_domains": {"actor_id": "usr-ana", "domains": ["sales", "crm"]},
    "access.offboard_actor": {"actor_id": "usr-ana"},
    "access.link_identity": {"subject_sha256": "5" * 64, "issuer": "https://login.bank.example/realms/bank", "actor_id": "usr-ana"},
    "access.unlink_identity": {"subject_sha256": "5" * 64},
    "access.suspend_actor": {"actor_id": "agt-cleaner"},
    "access.reinstate_actor": {"actor_id": "agt-cleaner"},
    "access.revoke_api_key": {"actor_id": "agt-cleaner", "key_id": "k1a2b3c4d5e6f708"},
}
_GROUPS: Final[dict[str, JsonObject]] = {
    "groups.create_group": {"group_id": "grp-risk", "label": "Risk", "external_name": "bank-risk"},
    "groups.rename_group": {"group_id": "grp-risk", "label": "Risk and controls", "external_name": "bank-risk"},
    "groups.add_member": {"group_id": "grp-risk", "actor_id": "usr-ana"},
    "groups.remove_member": {"group_id": "grp-risk", "actor_id": "usr-ana"},
    "groups.map_roles": {"group_id": "grp-risk", "mapped_roles": ["approver"], "domains": ["sales", "crm"]},
    "groups.nest_group": {"group_id": "grp-risk", "nested_id": "grp-market-risk"},
    "groups.unnest_group": {"group_id": "grp-risk", "nested_id": "grp-market-risk"},
    "groups.remove_group": {"group_id": "grp-risk"},
}
_AGENTS: Final[dict[str, JsonObject]] = {
    "agents.register_agent": {
        "agent_id": "agt-cleaner",
        "label": "Cleaner",
        "purpose": "Finds and reports stale tables",
        "model": "small-7b",
        "provider": "in house",
        "owner": "usr-ana",
    },
    "agents.delegate": {"agent_id": "agt-counter", "delegated_by": "agt-cleaner"},
    "agents.revoke_delegation": {"agent_id": "agt-counter", "delegated_by": "agt-cleaner"},
    "agents.stop_agent": {"agent_id": "agt-cleaner", "reason": "It reserves money for tables that nobody uses"},
    "agents.resume_agent": {"agent_id": "agt-cleaner", "reason": "Its list of tables was mended"},
}
_APPROVALS: Final[dict[str, JsonObject]] = {
    "approvals.request_approval": {
        "approval_id": "apr-7f3a",
        "description": "Deprecate the customers model",
        "risk_level": "high",
        "command": "catalog.deprecate_dataset",
        "inputs": {"dataset_id": _DATASET, "reason": "Replaced by customers_v2"},
        "stream": f"dataset:{_DATASET}",
        "seen_version": 4,
    },
    "approvals.carry_out_request": {"approval_id": "apr-7f3a"},
    "approvals.approve_request": {"approval_id": "apr-7f3a", "on_behalf_of": "usr-app", "comment": "Checked with finance"},
    "approvals.reject_request": {"approval_id": "apr-7f3a", "comment": "Finance still reads it"},
    "approvals.withdraw_request": {"approval_id": "apr-7f3a", "comment": "No longer needed"},
    "approvals.expire_request": {"approval_id": "apr-7f3a"},
    "approvals.escalate_request": {"approval_id": "apr-7f3a"},
    "approvals.void_request": {"approval_id": "apr-7f3a", "reason": "The agent that asked for it was stopped"},
    "approvals.delegate_authority": {
        "delegate": "usr-ben",
        "types": ["dataset_onboard", "pii_access"],
        "risk_up_to": "medium",
        "starts_at": "2026-03-03T00:00:00Z",
        "ends_at": "2026-03-17T00:00:00Z",
        "comment": "On holiday",
    },
    "approvals.revoke_authority": {"delegation_id": "01990000-0000-7000-8000-000000000001", "comment": "Back early"},
}
_BUDGETS: Final[dict[str, JsonObject]] = {
    "budgets.open_budget": {"budget_id": "eu-lake.ingest", "label": "Ingestion", "currency": "EUR", "limit_minor": 1_000_000},
    "budgets.fund_budget": {"budget_id": "eu-lake.ingest", "amount_minor": 250_000},
    "budgets.reserve_funds": {"budget_id": "eu-lake.ingest", "amount_minor": 60_000},
    "budgets.commit_funds": {
        "budget_id": "eu-lake.ingest",
        "reservation_id": "01990000-0000-7000-8000-000000000001",
        "spent_minor": 41_500,
    },
    "budgets.release_funds": {"budget_id": "eu-lake.ingest", "reservation_id": "01990000-0000-7000-8000-000000000001"},
    "budgets.change_settings": {"budget_id": "eu-lake.ingest", "label": "Nightly ingestion", "thresholds_percent": [50, 90]},
    "budgets.close_budget": {"budget_id": "eu-lake.ingest"},
}
_CATALOG: Final[dict[str, JsonObject]] = {
    "catalog.register_dataset": {"dataset_id": _DATASET, **_PROFILE, "columns": _COLUMNS, "tags": ["gold"]},
    "catalog.sync_dataset": {"dataset_id": _DATASET, **_PROFILE, "columns": _COLUMNS, "upstreams": [{"dataset_id": _STAGED}]},
    "catalog.describe_dataset": {"dataset_id": _DATASET, "description": "One row per customer who has bought once"},
    "catalog.change_schema": {"dataset_id": _DATASET, "columns": _COLUMNS},
    "catalog.assign_owner": {"dataset_id": _DATASET, "owner_id": "usr-ana", "role": "steward"},
    "catalog.remove_owner": {"dataset_id": _DATASET, "owner_id": "usr-ana"},
    "catalog.record_owner_contact": {"dataset_id": _DATASET, "owner_id": "own-1", "contact_email": "sales-data@example.org"},
    "catalog.tag_dataset": {"dataset_id": _DATASET, "tags": ["gold", "finance"]},
    "catalog.record_lineage": {
        "dataset_id": _DATASET,
        "upstream": {"dataset_id": _STAGED, "columns": [{"column": "customer_id", "upstream_column": "id"}]},
    },
    "catalog.remove_lineage": {"dataset_id": _DATASET, "upstream_id": _STAGED},
    "catalog.agree_freshness": {"dataset_id": _DATASET, "freshness_sla": "PT24H"},
    "catalog.record_refresh": {"dataset_id": _DATASET, "refreshed_at": "2026-03-03T14:00:00Z", "row_count": 1_856},
    "catalog.record_usage": {"dataset_id": _DATASET, "used_by": "agt-cleaner", "query_count": 3},
    "catalog.record_contract": {"dataset_id": _DATASET, "contract": {"slaProperties": [{"property": "latency", "value": 4, "unit": "d"}]}},
    "catalog.link_term": {"dataset_id": _DATASET, "column": "customer_id", "term_id": "customer"},
    "catalog.unlink_term": {"dataset_id": _DATASET, "column": "customer_id", "term_id": "customer"},
    "catalog.deprecate_dataset": {"dataset_id": _DATASET, "reason": "Replaced", "replaced_by": "model.jaffle_shop.customers_v2"},
    "catalog.reinstate_dataset": {"dataset_id": _DATASET},
    "catalog.define_term": {"term_id": "customer", "name": "Customer", "definition": "Whoever has bought once", "synonyms": ["client"]},
    "catalog.revise_term": {"term_id": "customer", "definition": "Whoever has paid once"},
}
_NOTIFICATIONS: Final[dict[str, JsonObject]] = {
    "notifications.notify": {
        "notification_id": "ntf-7f3a",
        "recipient": "usr-ana",
        "subject": "The customers model moves on Friday",
        "about": f"dataset:{_DATASET}",
    },
    "notifications.mark_read": {"notification_id": "ntf-7f3a"},
    "notifications.redeliver": {"webhook_id": "siem", "since": "2026-03-03T14:00:00Z"},
    "notifications.remove_webhook": {"webhook_id": "siem"},
    "hooks.remove_hook": {"hook_id": "dbt"},
    "sessions.end_session": {"session_id": "ses-9f86d081884c7d659a2feaa0c55ad015"},
}
_PIPELINES: Final[dict[str, JsonObject]] = {
    "pipelines.register_pipeline": {
        "pipeline_id": "customers-daily",
        "label": "Customers, daily",
        "domain": "sales",
        "environment": "production",
        "pii_level": "high",
        "jurisdiction": "EU",
    },
    "pipelines.deploy_version": {
        "pipeline_id": "customers-daily",
        "models": [{"name": "customers", "sql": "select id as customer_id, email from stg_customers"}],
        "unit_tests": {"count": 4},
        "dq_checks": {"count": 2},
        "inputs": [_STAGED],
        "outputs": [_DATASET],
    },
    "pipelines.report_failure": {"pipeline_id": "customers-daily", "reason": "Every customer came out twice"},
    "pipelines.retire_pipeline": {"pipeline_id": "customers-daily", "reason": "Nobody reads it any more"},
}
_POLICIES: Final[dict[str, JsonObject]] = {
    "policies.propose_policy": {
        "policy_id": "sales_needs_four_eyes",
        "type": "approval",
        "title": "Two people decide what sales may see",
        "scope": {"domains": ["sales"], "pii_levels": ["high"], "actions": ["catalog.*"]},
        "rule": {
            "outcome": "require_approval",
            "reason": "Sales holds personal data of customers.",
            "approver_roles": ["approver"],
            "quorum": 2,
            "required_evidence": ["data_contract"],
        },
    },
    "policies.activate_policies": {"activate": [{"policy_id": "sales_needs_four_eyes", "version": 1}], "retire": []},
    "policies.retire_policy": {"policy_id": "sales_needs_four_eyes"},
}
_EXPORTS: Final[dict[str, JsonObject]] = {
    "archive.seal_segments": {"until": 65_536},
    "exports.request_export": {
        "export_id": "exp-1f2e3d4c",
        "recipient": "Oesterreichische Nationalbank",
        "selection": {
            "datasets": [_DATASET],
            "agents": ["agt-cleaner"],
            "jurisdictions": ["EU"],
            "starts_at": "2026-04-01T00:00:00Z",
            "ends_at": "2026-07-01T00:00:00Z",
        },
        "profile": "regulator",
        "views": ["parquet", "html", "pdf"],
        "artifacts": True,
    },
    "exports.cancel_export": {"export_id": "exp-1f2e3d4c", "comment": "The wrong quarter"},
    "exports.define_profile": {"profile": "ecb-onsite", "disclose": ["governance"], "withhold_types": ["access.api_key_issued"]},
}
_KEY_ID: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_PUBLIC: Final = "vjSIFuLNB8PIkq6FKvrEdH0UYkMdDVB0TK8nQnYEYws="
_SIGNED: Final = "mHX9Rr1Gr1p1uZ8pXrY0uJ1Z3rH2m5a9a8qGQbJm0vQ8O3eT2dXr5c1kYw4l7b6n0sU9i2o3p4q5r6s7t8u9Cw=="
_KEYS: Final[dict[str, JsonObject]] = {
    "keys.add_key": {"role": "actor", "holder": "demo/agt-cleaner", "custody": "client", "public": _PUBLIC, "proof": _SIGNED},
    "keys.rotate_key": {
        "old_key_id": _KEY_ID,
        "role": "actor",
        "custody": "kms",
        "public": _PUBLIC,
        "proof": _SIGNED,
        "consent": _SIGNED,
    },
    "keys.revoke_key": {"key_id": _KEY_ID, "reason": "The laptop it was on was stolen", "compromised_since": 4711},
}
_REACTIONS: Final[dict[str, JsonObject]] = {
    "reactions.replay_dead_letter": {"letter_id": "5c1f0d3e9a7b4c2d8e6f1a0b9c8d7e6f"},
    "reactions.discard_dead_letter": {"letter_id": "5c1f0d3e9a7b4c2d8e6f1a0b9c8d7e6f", "reason": "Released by hand"},
}
_VAULT: Final[dict[str, JsonObject]] = {
    "vault.grant_unmasking": {
        "grant_id": "grt-7f3a",
        "actor_id": "usr-ana",
        "purposes": ["governance"],
        "subject_id": "cus-4711",
        "until": "2026-03-03T18:00:00Z",
        "reason": "Ticket 17: the customer asks what is kept about her",
    },
    "vault.revoke_unmasking": {"grant_id": "grt-7f3a", "reason": "Answered"},
    "vault.disclose_values": {
        "disclosure_id": "dsc-9b1c",
        "subject_id": "cus-4711",
        "purposes": ["governance"],
        "reason": "Ticket 17: the customer asks what is kept about her",
    },
    "vault.rotate_key_encryption_key": {},
}
_SUBJECTS: Final[dict[str, JsonObject]] = {
    "subjects.describe_subject": {"subject_id": "cus-7f3a", "kind": "customer", "jurisdiction": "EU"},
    "subjects.attach_artifact": {"subject_id": "cus-7f3a", "sha256": _KEY_ID, "purpose": "governance"},
    "subjects.detach_artifact": {"subject_id": "cus-7f3a", "sha256": _KEY_ID},
    "subjects.erase_subject": {"subject_id": "cus-7f3a", "ground": "consent_withdrawn"},
    "subjects.cancel_erasure": {"subject_id": "cus-7f3a", "reason": "She stays a customer"},
    "subjects.reopen_subject": {"subject_id": "cus-7f3a", "reason": "She is a customer again"},
    "subjects.place_hold": {
        "hold_id": "matter-2026-17",
        "subject_ids": ["cus-7f3a"],
        "matter": "3 Cg 17/26k",
        "reason": "A claim was served",
        "until": "2027-03-03T14:00:00Z",
    },
    "subjects.release_hold": {"hold_id": "matter-2026-17", "reason": "Settled"},
    "subjects.set_retention_rule": {"jurisdiction": "EU", "purpose": "marketing", "keep": "P730D"},
    "subjects.lift_retention_rule": {"jurisdiction": "EU", "purpose": "marketing"},
}
_DUTIES: Final[dict[str, JsonObject]] = {
    "duties.define_rule": {
        "rule_id": "build-and-ship",
        "reason": "Whoever registers a pipeline does not deploy it",
        "commands_apart": ["pipelines.register_pipeline", "pipelines.deploy_version"],
    },
    "duties.remove_rule": {"rule_id": "build-and-ship"},
}
_JOBS: Final[dict[str, JsonObject]] = {
    "jobs.cancel_job": {"job_id": "0199d6f2-5b1c-7c3e-8a52-0c8d6b1f7a42", "comment": "The wrong quarter"}
}
_REPLAYS: Final[dict[str, JsonObject]] = {
    "replays.drop_replay": {"replay_id": "june", "comment": "The audit is over"},
    "replays.save_audit_query": {
        "query_id": "spent-in-a-period",
        "title": "What was spent on which budget in a period",
        "sql": "SELECT stream, count(*) FROM events WHERE type = 'budgets.funds_committed' AND at >= $1 GROUP BY stream",
        "parameters": [{"name": "since", "description": "From then on", "default": "2026-04-01"}],
    },
    "replays.retire_audit_query": {"query_id": "spent-in-a-period"},
}
_GRANTS: Final[dict[str, JsonObject]] = {
    "grants.grant_role": {
        "grant_id": "grt-7f3a",
        "role": "analyst",
        "about": "domain:sales",
        "actor_id": "usr-ben",
        "until": "2026-06-30T18:00:00Z",
        "reason": "Stands in for usr-ana until the end of the quarter",
    },
    "grants.extend_grant": {"grant_id": "grt-7f3a", "until": "2026-09-30T18:00:00Z"},
    "grants.revoke_grant": {"grant_id": "grt-7f3a", "reason": "She is back"},
}
_PROJECTS: Final[dict[str, JsonObject]] = {
    "projects.create_project": {"project_id": "churn", "label": "Churn", "owner": "usr-ana", "description": "Who leaves, and why"},
    "projects.describe_project": {"project_id": "churn", "owner": "usr-ben"},
    "projects.attach_resource": {"project_id": "churn", "stream": f"dataset:{_DATASET}"},
    "projects.detach_resource": {"project_id": "churn", "stream": f"dataset:{_DATASET}"},
    "projects.archive_project": {"project_id": "churn", "reason": "The model is in production"},
}
EXAMPLES: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        **_ACCESS,
        **_GRANTS,
        **_GROUPS,
        **_PROJECTS,
        **_AGENTS,
        **_APPROVALS,
        **_BUDGETS,
        **_CATALOG,
        **_DUTIES,
        **_EXPORTS,
        **_JOBS,
        **_KEYS,
        **_NOTIFICATIONS,
        **_PIPELINES,
        **_POLICIES,
        **_REACTIONS,
        **_REPLAYS,
        **_SUBJECTS,
        **_VAULT,
    }
)
"""A command's fields, those in its path included, by the command's name."""
