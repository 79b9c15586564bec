"""Backups over REST: which were taken, what each holds, and whether this ledger was put back from one."""

from typing import Final

from api.routing import ContextRouter
from domain.values import Role
from projections.backups import backups

OVERSEERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})

router = ContextRouter(prefix="/v1", tags=["backups"])
router.views("/backups", backups, row_id="backup_id", roles=OVERSEERS)
