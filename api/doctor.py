"""`GET /v1/system/doctor`: what `aureus doctor` finds, for administrators who are not at the machine."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from api.errors import ApiError
from api.reading import Present
from api.routing import ContextRouter
from domain.values import Role
from infra.doctor.examining import examine
from infra.doctor.findings import worst

router = ContextRouter(tags=["health"])


class Found(BaseModel):
    """One check: what was seen, and what to do about it unless it is well."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    remedy: str | None


class Examined(BaseModel):
    """All checks; `verdict` is the worst of them."""

    verdict: Literal["ok", "warn", "fail"]
    items: list[Found]


@router.query("/v1/system/doctor", roles=frozenset({Role.ADMIN}), response_model=Examined)
async def doctor(reader: Present) -> Examined:
    """Check this deployment: the database, the walls between tenants, keys, disks, the servers beside it, and what is left to do."""
    services = reader.services
    operator = services.settings.operations.operator_tenant
    if operator not in (None, reader.asker.tenant):
        message = "How this server is deployed is its operator's affair."
        raise ApiError(403, "outside_tenant", message, remedy="Ask an administrator of the tenant that operates it.")
    tenant = None if operator is not None else reader.asker.tenant
    findings = await examine(services.settings, services.dsn, tenant=tenant)
    items = [Found(check=one.check, verdict=one.verdict, found=one.found, remedy=one.remedy) for one in findings]
    return Examined(verdict=worst(findings), items=items)
