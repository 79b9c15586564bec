"""`aureus doctor`: each thing that can be wrong with a deployment is found, said, and told how to be mended."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bench.servers import free_port
from commands.access import IssueApiKey
from infra.doctor.examining import examine
from infra.doctor.findings import Finding, worst
from infra.kafka_settings import KafkaPlace
from infra.operations_settings import Operations
from infra.settings import Settings, TimestampPlace
from tests.support.kernel import ADM, ANA, ask
from tests.support.running import Aureus, running
from tests.test_api import refused

pytestmark = pytest.mark.anyio


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path) as served:
        await served.know(ADM, ANA)
        yield served


async def found(settings: Settings, dsn: str | None, **environment: str) -> dict[str, Finding]:
    findings = await examine(settings, dsn, environment=environment)
    assert len({finding.check for finding in findings}) == len(findings)
    for finding in findings:
        assert (finding.remedy is None) == (finding.verdict == "ok"), finding
    return {finding.check: finding for finding in findings}


async def run(dsn: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        for statement in statements:
            await owner.execute(statement.encode())


async def test_a_deployment_that_is_well_has_nothing_to_mend_but_what_a_test_leaves_out(aureus: Aureus) -> None:
    seen = await found(aureus.services.settings, aureus.services.dsn)
    uneasy = {check for check, finding in seen.items() if finding.verdict != "ok"}
    assert uneasy <= {"database.user", "witnesses.current", "disk.home"}, [seen[check] for check in uneasy]
    assert {"database.version", "database.durability", "clock.skew", "database.row_security", "keys.modes", "blobs.writable"} <= set(seen)


async def test_what_is_wrong_in_the_database_is_found(aureus: Aureus) -> None:
    services = aureus.services
    dsn = services.dsn
    soon = datetime.now(UTC) + timedelta(days=3)
    issued = await services.path.handle(
        ask(IssueApiKey(key_id="k1a2b3c4", actor_id=ANA.actor, label="Ana", secret_sha256="0" * 64, expires_at=soon), ANA)
    )
    await services.wait_for(issued.position)
    letter = '{"reaction": "tell_somebody", "status": "waiting"}'
    await run(
        dsn,
        "COMMENT ON SCHEMA ledger IS 'Aureus, an older one'",
        "ALTER TABLE read_budgets.budgets DISABLE ROW LEVEL SECURITY",
        "ALTER FUNCTION pg_catalog.jsonb_object_field_text(jsonb, text) NOT LEAKPROOF",
        "UPDATE projections.positions SET stopped = 'an event it cannot fold' WHERE name = 'exports'",
        f"INSERT INTO read_reactions.dead_letters VALUES ('acme', 'one', 1, {2**63 - 1}, '{letter}')",
        "INSERT INTO notifications_private.deliveries (tenant, webhook_id, notification_id, position, tries) "
        "VALUES ('acme', 'siem', 'n', 1, 5)",
    )
    seen = await found(services.settings, dsn)
    for check, verdict, said in (
        ("database.row_security", "fail", "read_budgets.budgets"),
        ("database.schema", "warn", "another version"),
        ("database.leakproof", "warn", "their indexes are not used"),
        ("read_models.current", "fail", "exports (an event it cannot fold)"),
        ("reactions.dead_letters", "warn", "1 of tell_somebody"),
        ("webhooks.delivered", "warn", "siem (1)"),
        ("api_keys.run_out", "warn", "k1a2b3c4"),
    ):
        assert (seen[check].verdict, said in seen[check].found) == (verdict, True), seen[check]
    assert worst(seen.values()) == "fail"
    await run(dsn, seen["database.leakproof"].remedy.partition(": ")[2])  # type: ignore[union-attr]
    assert (await found(services.settings, dsn))["database.leakproof"].verdict == "ok"


async def test_what_is_wrong_on_the_machine_is_found(aureus: Aureus, tmp_path: Path) -> None:
    settings, dsn = aureus.services.settings, aureus.services.dsn
    (settings.keys_dir / "log.key").chmod(0o644)
    seen = await found(
        replace(settings, host="0.0.0.0", demo=True), dsn, AUREUS_S3_SECRET_KEY="s3cr3t", DATABASE_URL="postgresql://a:s3cr3t@db/a"
    )
    assert seen["keys.modes"].verdict == "fail"
    assert "log.key" in seen["keys.modes"].found
    assert seen["exposure.tls"].verdict == "fail"
    assert seen["exposure.demo_logins"].verdict == "ok", "none were made"
    assert (seen["secrets.environment"].verdict, "s3cr3t" in str(seen)) == ("warn", False)
    assert "AUREUS_S3_SECRET_KEY, DATABASE_URL" in seen["secrets.environment"].found
    settings.demo_logins_file.write_text("{}")
    assert (await found(replace(settings, demo=True), dsn))["exposure.demo_logins"].verdict == "warn"
    assert (await found(replace(settings, demo=True, host="0.0.0.0"), dsn))["exposure.demo_logins"].verdict == "fail"
    (settings.keys_dir / "log.key").chmod(0o600)
    (settings.keys_dir / "vault.key").unlink()
    missing = await found(settings, dsn)
    assert (missing["keys.present"].verdict, missing["keys.vault"].verdict) == ("fail", "fail" if await _wrapped(dsn) else "ok")
    for days, verdict in ((10, "warn"), (90, "ok")):
        roots = TimestampPlace("https://tsa.example.org", _certificate(tmp_path, days=days), 3_600)
        ending = (await found(replace(settings, timestamps=roots), None))["certificates.run_out"]
        assert (ending.verdict, str(roots.roots) in ending.found) == (verdict, verdict == "warn")
    if os.geteuid() != 0:  # to root no folder is closed
        settings.blobs_dir.chmod(0o500)
        assert (await found(settings, dsn))["blobs.writable"].verdict == "fail"


def _certificate(folder: Path, *, days: int) -> Path:
    """A root of somebody's own that ends then."""
    key, now = Ed25519PrivateKey.generate(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    signed = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days)).sign(key, None)
    path = folder / f"{days}.pem"
    path.write_bytes(signed.public_bytes(Encoding.PEM))
    return path


async def _wrapped(dsn: str) -> bool:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        return await (await owner.execute("SELECT FROM vault.keys LIMIT 1")).fetchone() is not None


async def test_a_server_beside_it_that_does_not_answer_is_found_and_no_secret_is_told(aureus: Aureus) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    settings = aureus.services.settings
    away = replace(
        settings,
        opa_url=f"http://{nowhere}",
        opa_token="s3cr3t",
        kafka=KafkaPlace((nowhere,)),
        front=replace(settings.front, redis_url=f"redis://:s3cr3t@{nowhere}/0"),
    )
    seen = await found(away, f"postgresql://aureus:s3cr3t@{nowhere}/aureus")
    for check in ("database.reachable", "opa.reachable", "kafka.reachable", "redis.reachable"):
        assert seen[check].verdict == "fail", seen[check]
    assert "s3cr3t" not in str(seen)
    assert (await found(settings, None))["database.reachable"].found == "the embedded PostgreSQL does not run"


async def test_an_administrator_asks_the_server_and_other_tenants_do_not(aureus: Aureus) -> None:
    told: dict[str, Any] = (await aureus.get("/v1/system/doctor", ADM)).json()
    assert told["verdict"] in {"ok", "warn", "fail"}
    assert {"check", "verdict", "found", "remedy"} == set(told["items"][0])
    refused(await aureus.get("/v1/system/doctor", ANA), 403, "role_missing")
    object.__setattr__(aureus.services.settings, "operations", Operations(operator_tenant="bank"))
    refused(await aureus.get("/v1/system/doctor", ADM), 403, "outside_tenant")
