"""Everything that is looked at, in the order in which it is told."""

from __future__ import annotations

import os
from collections.abc import Mapping

from infra.doctor.database import look_at_database
from infra.doctor.findings import Finding
from infra.doctor.machine import look_at_machine
from infra.doctor.places import look_at_places
from infra.settings import Settings


async def examine(
    settings: Settings, dsn: str | None, *, tenant: str | None = None, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """One finding for each check. `tenant` leaves out what is other tenants'; None looks at everybody's. Changes nothing."""
    return [
        *await look_at_database(dsn, settings, tenant),
        *look_at_machine(settings, environment),
        *[finding async for finding in look_at_places(settings)],
    ]
