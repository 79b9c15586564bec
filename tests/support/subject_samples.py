"""One realistic sample of every event about subjects, holds and retention."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from domain import subjects
from domain.catalog import Jurisdiction
from domain.kernel import Event

SUBJECT: Final = "cus-7f3a"
SHA: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def subject_samples() -> Iterator[Event]:
    yield subjects.SubjectDescribed(subject_id=SUBJECT, kind="customer", jurisdiction=Jurisdiction.EU)
    yield subjects.ArtifactAttached(subject_id=SUBJECT, sha256=SHA, purpose="governance")
    yield subjects.ArtifactDetached(subject_id=SUBJECT, sha256=SHA)
    yield subjects.ErasureOrdered(subject_id=SUBJECT, purposes=("marketing",), ground="consent_withdrawn", note="Brief vom 3. März")
    yield subjects.ErasureCancelled(subject_id=SUBJECT, reason="Sie bleibt Kundin")
    yield subjects.ErasureBegun(subject_id=SUBJECT, ordered_position=4_711)
    yield subjects.SubjectErased(
        subject_id=SUBJECT,
        ordered_position=4_711,
        until=4_720,
        everything=True,
        purposes=("governance", "marketing"),
        ground="consent_withdrawn",
        fields=17,
        keys=2,
        artifacts=(SHA,),
        kept_artifacts=("0" * 64,),
        export_ids=("exp-1f2e3d4c",),
    )
    yield subjects.SubjectReopened(subject_id=SUBJECT, reason="Sie ist wieder Kundin")
    until = datetime(2027, 3, 3, 14, 0, tzinfo=UTC)
    yield subjects.HoldPlaced(
        hold_id="matter-2026-17", subject_ids=(SUBJECT,), everybody=False, matter="3 Cg 17/26k", reason="Klage zugestellt", until=until
    )
    yield subjects.HoldReleased(hold_id="matter-2026-17", reason="Verglichen")
    yield subjects.RetentionRuleSet(jurisdiction=Jurisdiction.EU, purpose="marketing", keep="P730D")
    yield subjects.RetentionRuleLifted(jurisdiction=Jurisdiction.EU, purpose="marketing")
