"""Which OCSF class an event belongs to, and which of its activities it is: one table, read top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

OTHER: Final = 99


@dataclass(frozen=True, slots=True)
class OcsfClass:
    """A class of OCSF, with the captions of the activities that are used here."""

    uid: int
    name: str
    category_uid: int
    category: str
    activities: Mapping[int, str]


API_ACTIVITY: Final = OcsfClass(6003, "API Activity", 6, "Application Activity", {1: "Create", 3: "Update"})
ACCOUNT_CHANGE: Final = OcsfClass(3001, "Account Change", 3, "Identity & Access Management", {1: "Create", 2: "Enable", 5: "Disable"})
USER_ACCESS: Final = OcsfClass(
    3005, "User Access Management", 3, "Identity & Access Management", {1: "Assign Privileges", 2: "Revoke Privileges"}
)
ENTITY: Final = OcsfClass(
    3004,
    "Entity Management",
    3,
    "Identity & Access Management",
    {1: "Create", 3: "Update", 4: "Delete", 8: "Enable", 9: "Disable", 10: "Activate", 11: "Deactivate"},
)
DETECTION: Final = OcsfClass(2004, "Detection Finding", 2, "Findings", {1: "Create"})


@dataclass(frozen=True, slots=True)
class Kind:
    """What an event is in OCSF. `user` names the field of its data that holds whom it is about, for the classes about users."""

    cls: OcsfClass
    activity_id: int
    severity_id: int = 1
    user: str = ""


DEFAULT: Final = Kind(ENTITY, OTHER)
"""Something happened to the entity that the stream names: true of every event; the activity is then named by the event itself."""

_CREATED: Final = Kind(ENTITY, 1)
_UPDATED: Final = Kind(ENTITY, 3)
_ACTIVATED: Final = Kind(ENTITY, 10)
_DEACTIVATED: Final = Kind(ENTITY, 11)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "access.actor_registered": Kind(ACCOUNT_CHANGE, 1, user="actor_id"),
        "access.actor_reinstated": Kind(ACCOUNT_CHANGE, 2, user="actor_id"),
        "access.actor_suspended": Kind(ACCOUNT_CHANGE, 5, 3, user="actor_id"),
        # The actor holds these roles and no others from now on, which both assigns and revokes.
        "access.roles_changed": Kind(USER_ACCESS, OTHER, user="actor_id"),
        "access.api_key_issued": _CREATED,
        "access.api_key_revoked": Kind(ENTITY, 9),
        "agents.agent_registered": Kind(ACCOUNT_CHANGE, 1, user="agent_id"),
        "agents.agent_resumed": Kind(ACCOUNT_CHANGE, 2, 3, user="agent_id"),
        "agents.agent_stopped": Kind(ACCOUNT_CHANGE, 5, 4, user="agent_id"),
        "agents.action_requested": Kind(USER_ACCESS, 1, user="agent_id"),
        "agents.agent_delegated": Kind(USER_ACCESS, 1, user="agent_id"),
        "agents.delegation_revoked": Kind(USER_ACCESS, 2, user="agent_id"),
        "approvals.authority_delegated": Kind(USER_ACCESS, 1, user="delegate"),
        "approvals.authority_revoked": _DEACTIVATED,
        "approvals.approval_requested": _CREATED,
        "approvals.approver_agreed": _UPDATED,
        "approvals.approval_escalated": _UPDATED,
        "approvals.approval_granted": _ACTIVATED,
        "approvals.approval_rejected": _DEACTIVATED,
        "approvals.approval_expired": _DEACTIVATED,
        "approvals.approval_voided": _DEACTIVATED,
        "approvals.approval_withdrawn": _DEACTIVATED,
        "approvals.approval_used": _DEACTIVATED,
        "archive.sealing_requested": _CREATED,
        "archive.segment_sealed": _CREATED,
        "archive.sealing_failed": Kind(ENTITY, OTHER, 3),
        "budgets.budget_opened": _CREATED,
        "budgets.budget_funded": _UPDATED,
        "budgets.funds_reserved": _UPDATED,
        "budgets.funds_committed": _UPDATED,
        "budgets.funds_released": _UPDATED,
        "budgets.threshold_reached": Kind(ENTITY, OTHER, 2),
        "budgets.settings_changed": _UPDATED,
        "budgets.settings_rolled_back": _UPDATED,
        "budgets.budget_closed": _DEACTIVATED,
        "catalog.dataset_registered": _CREATED,
        "catalog.dataset_deprecated": Kind(ENTITY, 9),
        "catalog.dataset_reinstated": Kind(ENTITY, 8),
        "catalog.dataset_described": _UPDATED,
        "catalog.dataset_rolled_back": _UPDATED,
        "catalog.schema_changed": _UPDATED,
        "catalog.contract_recorded": _UPDATED,
        "catalog.freshness_agreed": _UPDATED,
        "catalog.lineage_recorded": _UPDATED,
        "catalog.lineage_removed": _UPDATED,
        "catalog.owner_assigned": _UPDATED,
        "catalog.owner_contact_recorded": _UPDATED,
        "catalog.owner_removed": _UPDATED,
        "catalog.tags_changed": _UPDATED,
        "catalog.term_linked": _UPDATED,
        "catalog.term_unlinked": _UPDATED,
        "catalog.term_defined": _CREATED,
        "catalog.term_revised": _UPDATED,
        "evidence.artifact_registered": _CREATED,
        "evidence.pack_sealed": _CREATED,
        "exports.export_requested": _CREATED,
        "exports.export_sealed": _UPDATED,
        "exports.export_failed": Kind(ENTITY, OTHER, 3),
        "exports.export_cancelled": _DEACTIVATED,
        # A copy left the house.
        "exports.pack_downloaded": Kind(ENTITY, OTHER, 2),
        "exports.pack_withdrawn": _DEACTIVATED,
        "exports.profile_defined": _UPDATED,
        "exports.index_committed": _UPDATED,
        "keys.key_added": _CREATED,
        "keys.key_rotated": _UPDATED,
        "keys.key_revoked": Kind(ENTITY, 9, 4),
        "notifications.notification_sent": _CREATED,
        "notifications.webhook_added": _CREATED,
        "notifications.webhook_removed": Kind(ENTITY, 4),
        "pipelines.pipeline_registered": _CREATED,
        "pipelines.version_deployed": _ACTIVATED,
        "pipelines.deployment_failed": Kind(ENTITY, OTHER, 3),
        "pipelines.pipeline_rolled_back": _UPDATED,
        "pipelines.pipeline_retired": _DEACTIVATED,
        "policies.policy_proposed": _CREATED,
        "policies.policy_activated": _ACTIVATED,
        "policies.defaults_adopted": _ACTIVATED,
        "policies.policies_rolled_back": _UPDATED,
        "policies.policy_superseded": _DEACTIVATED,
        "policies.policy_retired": _DEACTIVATED,
        "subjects.subject_described": _CREATED,
        "subjects.artifact_attached": _UPDATED,
        "subjects.artifact_detached": _UPDATED,
        "subjects.subject_erased": Kind(ENTITY, 4),
        "subjects.subject_reopened": _ACTIVATED,
        "subjects.hold_placed": _CREATED,
        "subjects.hold_released": _DEACTIVATED,
        "subjects.retention_rule_set": _UPDATED,
        "subjects.retention_rule_lifted": _UPDATED,
    }
)
"""All others, and whatever comes in later, are DEFAULT; actions are API Activity, and notices of anomalies Detection Findings."""
