"""Approvals over REST: request consent to one exact action, see what it would touch, decide on it, and let others decide for you."""

from __future__ import annotations

from dataclasses import asdict

from api.dependents import Surroundings, surroundings
from api.errors import ApiError
from api.routing import ContextRouter, Reader, Reading
from commands.approvals import (
    ApproveRequest,
    CarryOutRequest,
    DelegateAuthority,
    EscalateRequest,
    ExpireRequest,
    RejectRequest,
    RequestApproval,
    RevokeAuthority,
    VoidRequest,
    WithdrawRequest,
)
from domain.approvals import DELEGATIONS
from domain.kernel import JsonObject
from domain.values import EVERYBODY
from projections.access import actors
from projections.approvals import ApprovalRow, approvals, delegations
from projections.budgets import reservations
from projections.engine import read_row
from projections.evidence import EvidencePackRow, actions, pack_of
from projections.pipelines import pipelines

router = ContextRouter(prefix="/v1", tags=["approvals"])
router.command("/approvals", RequestApproval, status=201)
router.command("/approvals/{approval_id}/carry-out", CarryOutRequest)
router.command("/approvals/{approval_id}/approve", ApproveRequest)
router.command("/approvals/{approval_id}/reject", RejectRequest)
router.command("/approvals/{approval_id}/withdraw", WithdrawRequest)
router.command("/approvals/{approval_id}/expire", ExpireRequest)
router.command("/approvals/{approval_id}/escalate", EscalateRequest)
router.command("/approvals/{approval_id}/void", VoidRequest)
router.views("/approvals", approvals, row_id="approval_id", roles=EVERYBODY, stream="approval:{}".format)
router.command("/delegations", DelegateAuthority, status=201)
router.command("/delegations/{delegation_id}/revoke", RevokeAuthority)
router.views("/delegations", delegations, row_id="delegation_id", roles=EVERYBODY, stream=lambda _delegation_id: DELEGATIONS)


class BlastRadius(Surroundings):
    """What stands around the entity that somebody wants to change, and what the requester holds besides.

    `approvals` are others for the same entity: whichever is used first leaves the rest without effect.
    """

    requester_reservations: list[JsonObject]
    requester_agents: list[JsonObject]


@read_row
class Dossier(ApprovalRow):
    """All that an approver should see: the request, the evidence pack of the action that asked, and what it would touch."""

    pack: EvidencePackRow | None
    blast_radius: BlastRadius


@router.query("/approvals/{approval_id}/dossier", roles=EVERYBODY, narrowed=True, response_model=Dossier)
async def approval_dossier(approval_id: str, reader: Reading) -> JsonObject:
    """What an approver should see before deciding: the request, its policy results and evidence, and its blast radius."""
    row = await reader.get(approvals, approval_id)
    if row is None:
        message = f"There is no approval {approval_id!r}{' at that time' if reader.as_of is not None else ''}."
        raise ApiError(404, "approval_not_found", message, field="approval_id", remedy="List them to see what is there.")
    action = await reader.get(actions, row["evidence_action_id"])
    return {**row, "pack": asdict(pack_of(action)) if action else None, "blast_radius": await _blast_radius(reader, row)}


async def _blast_radius(reader: Reader, row: JsonObject) -> JsonObject:
    around = await surroundings(reader, row["stream"] or "", await _datasets(reader, row["stream"] or ""))
    return {
        **around.model_dump(),
        "approvals": [other for other in around.approvals if other["approval_id"] != row["approval_id"]],
        "requester_reservations": await reader.find(reservations, {"reserved_by": row["requester"], "status": "reserved"}),
        "requester_agents": await reader.find(actors, {"owner": row["requester"], "kind": "agent"}),
    }


async def _datasets(reader: Reader, stream: str) -> list[str]:
    """The datasets that an entity is, reads or makes."""
    category, _, entity = stream.partition(":")
    if category == "dataset":
        return [entity]
    pipeline = await reader.get(pipelines, entity) if category == "pipeline" else None
    return sorted({*pipeline["inputs"], *pipeline["outputs"]}) if pipeline else []
