"""One realistic sample of every event about actors, their keys and identities, and groups."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from domain import access, grants, groups, projects
from domain.kernel import Event
from domain.values import ActorKind, Role, Tier

LATER: Final = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
SOON: Final = datetime(2026, 3, 4, 14, 0, tzinfo=UTC)
SHA: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def access_samples() -> Iterator[Event]:
    yield access.ActorRegistered(actor_id="agt-cleaner", kind=ActorKind.AGENT, roles=(Role.AGENT,), owner="usr-ana", display_name="Cleaner")
    yield access.RolesChanged(actor_id="usr-ana", roles=(Role.ANALYST, Role.APPROVER))
    yield access.OwnerChanged(actor_id="agt-cleaner", owner="usr-ben")
    yield access.TierChanged(actor_id="usr-ana", tier=Tier.PREMIUM)
    yield access.DomainsBounded(actor_id="usr-ana", domains=("crm", "sales"))
    yield access.ActorSuspended(actor_id="usr-ana")
    yield access.ActorReinstated(actor_id="usr-ana")
    yield access.ActorOffboarded(actor_id="usr-ana", revoked_keys=("k1a2b3c4",))
    scopes = ("catalog.record_refresh", "read")
    yield access.ApiKeyIssued(
        actor_id="agt-cleaner", key_id="k1a2b3c4", label="nightly", secret_sha256=SHA, expires_at=LATER, scopes=scopes
    )
    yield access.ApiKeyRotated(
        actor_id="agt-cleaner",
        key_id="k5d6e7f8",
        replaces="k1a2b3c4",
        label="nightly",
        secret_sha256=SHA,
        expires_at=LATER,
        old_ends_at=SOON,
        scopes=scopes,
    )
    yield access.ApiKeyRevoked(actor_id="agt-cleaner", key_id="k1a2b3c4")
    yield access.IdentityLinked(subject_sha256=SHA, issuer="https://login.bank.example/realms/bank", actor_id="usr-ana")
    yield access.IdentityUnlinked(subject_sha256=SHA, actor_id="usr-ana")


def group_samples() -> Iterator[Event]:
    yield groups.GroupCreated(group_id="grp-risk", label="Risk", external_name="bank-risk")
    yield groups.GroupRenamed(group_id="grp-risk", label="Risk and controls", external_name="bank-risk-controls")
    yield groups.MemberAdded(group_id="grp-risk", actor_id="usr-ana")
    yield groups.MemberRemoved(group_id="grp-risk", actor_id="usr-ana")
    yield groups.RolesMapped(group_id="grp-risk", roles=(Role.ANALYST, Role.APPROVER), domains=("crm", "sales"))
    yield groups.GroupRemoved(group_id="grp-risk")
    yield groups.GroupNested(group_id="grp-risk", nested_id="grp-market-risk")
    yield groups.GroupUnnested(group_id="grp-risk", nested_id="grp-market-risk")


def grant_samples() -> Iterator[Event]:
    """Of grants, and of the projects they may be on."""
    grant: dict[str, Any] = {"grant_id": "grt-7f3a", "until": LATER}
    yield grants.RoleGranted(
        **grant, role=Role.ANALYST, about="project:churn", actor_id="usr-ben", group_id="grp-risk", reason="The audit of March"
    )
    yield grants.GrantExtended(**grant)
    yield grants.GrantRevoked(grant_id="grt-7f3a", reason="Done early")
    project = {"project_id": "churn", "label": "Churn", "owner": "usr-ana", "description": "Wer geht, und warum"}
    yield projects.ProjectCreated(**project)
    yield projects.ProjectDescribed(**project)
    yield projects.ResourceAttached(project_id="churn", stream="dataset:crm.orders")
    yield projects.ResourceDetached(project_id="churn", stream="dataset:crm.orders")
    yield projects.ProjectArchived(project_id="churn", reason="The model is in production")
