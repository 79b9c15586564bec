"""Retention: what has been kept for as long as it may is erased by itself - through the policies, never under a hold, and once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.retention import ends
from streams import erasing
from tests.support.erasing import EVA, LEGAL, REGO, certified, done, eva, refused, until
from tests.support.kernel import ADM, ANA, APP
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
RULE = {"jurisdiction": "EU", "purpose": "governance", "keep": "PT1S"}
PARKED = REGO.replace("consent_withdrawn", "retention")


@pytest.fixture
async def aureus(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Aureus]:
    monkeypatch.setattr(erasing, "RETENTION_SECONDS", 0.2)
    async with running(database_url, tmp_path, getattr(request, "param", REGO)) as opened:
        await opened.know(ADM, ANA, APP, LEGAL)
        await eva(opened, datasets=1)
        yield opened


async def test_what_is_due_is_shown_held_and_then_erased(aureus: Aureus) -> None:
    for unknown in ({**RULE, "jurisdiction": "MARS"}, {**RULE, "keep": "a year"}):
        assert (await refused(aureus, "/v1/retention-rules", unknown))[:2] == (422, "validation_failed")
    assert (await refused(aureus, "/v1/retention-rules", {**RULE, "keep": "P0D"}))[:2] == (409, "duration_is_zero")
    assert (await refused(aureus, "/v1/retention-rules", RULE, ANA))[:2] == (403, "role_missing")

    await done(aureus, "/v1/retention-rules", {**RULE, "keep": "P30D"})
    assert (await aureus.get("/v1/retention/due", ADM)).json()["items"] == []
    (due,) = (await aureus.get("/v1/retention/due", ADM, at=f"{datetime.now(UTC) + timedelta(days=31):%Y-%m-%d}")).json()["items"]
    assert (due["subject_id"], due["purpose"], due["fields"], due["keep"], due["holds"]) == (EVA, "governance", 3, "P30D", [])
    assert datetime.fromisoformat(due["due_at"]) - datetime.fromisoformat(due["last_recorded_at"]) == timedelta(days=30)
    wrong = await aureus.get("/v1/retention/due", ADM, at="soon")
    assert (wrong.status_code, wrong.json()["error"]["details"]["field"]) == (422, "at")

    hold = {"hold_id": "m-1", "everybody": True, "matter": "3 Cg 17/26k", "reason": "A claim was served"}
    await done(aureus, "/v1/holds", hold, LEGAL)
    await done(aureus, "/v1/retention-rules", RULE)
    await asyncio.sleep(2)
    (due,) = (await aureus.get("/v1/retention/due", ADM)).json()["items"]
    assert due["holds"] == ["m-1"]
    assert (await aureus.get(f"/v1/subjects/{EVA}", ADM)).json()["status"] == "open"

    await done(aureus, "/v1/holds/m-1/release", {"reason": "Settled"}, LEGAL)
    certificate = await certified(aureus)
    assert (certificate["ground"], certificate["purposes"], certificate["everything"]) == ("retention", ["governance"], False)
    assert certificate["fields"] == 3
    assert (await aureus.get("/v1/retention/due", ADM)).json()["items"] == []
    await done(aureus, "/v1/retention-rules/lift", {"jurisdiction": "EU", "purpose": "governance"})
    assert (await aureus.get("/v1/retention-rules", ADM)).json()["items"] == []


@pytest.mark.parametrize("aureus", [PARKED], indirect=True)
async def test_what_the_policies_park_is_asked_for_once_and_erased_when_somebody_approves(aureus: Aureus) -> None:
    await done(aureus, "/v1/retention-rules", RULE)

    async def parked() -> bool:
        return bool((await aureus.get("/v1/approvals", ADM, status="pending")).json()["items"])

    await until(parked)
    await asyncio.sleep(1)  # several sweeps later
    (approval,) = (await aureus.get("/v1/approvals", ADM, status="pending")).json()["items"]
    assert (approval["command"], approval["requester"]) == ("subjects.erase_subject", "svc-reactions")
    await done(aureus, f"/v1/approvals/{approval['approval_id']}/approve", {}, APP)
    assert (await certified(aureus))["ground"] == "retention"


def test_a_rule_of_a_thousand_years_is_one_of_a_century() -> None:
    recorded = datetime(2026, 3, 3, tzinfo=UTC)
    assert ends(recorded, "P1D") == recorded + timedelta(days=1)
    assert ends(recorded, "P999999999D") == ends(recorded, "P36500D")
