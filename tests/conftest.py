"""What tests share: a real PostgreSQL, a fresh database in it, real servers of S3, OPA and Kafka, and the event loop the API runs on."""

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from infra.embedded import EmbeddedPostgres
from infra.keystore import FileKeystore
from tests.support.kafka import Kafka, broker
from tests.support.minio import Minio
from tests.support.opa import Opa
from tests.support.redis import RedisServer
from tests.support.softhsm import SoftHsm

settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=200, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


ONE_POSTGRES = frozenset(
    (
        "test_analytics_operations test_anomalies test_archive test_archive_bytes test_archive_query test_as_of_everywhere "
        "test_attacks_bytes test_attacks_history test_attacks_keys test_attacks_packs test_bulk test_carry_out test_console test_could "
        "test_could_law test_decision_replay test_doctor test_evidence_packs test_export_command test_export_story test_feeds "
        "test_feeds_cli test_front_door test_hooks test_keycloak test_keys_api test_keys_path test_kill_switch test_leavers "
        "test_limit_properties test_limits test_log_secrets test_login test_logs test_matrix test_metrics test_notifications "
        "test_oidc_login test_opa test_pkcs11 test_proofs test_reach_reads test_reactions test_redelivery test_request_signing "
        "test_retention test_rollback_path test_s3 test_sagas test_scim test_security_headers test_streams_api test_thirdparty "
        "test_threats test_timeline test_timestamps test_tracing test_vault_api test_verifier_cli test_webhooks test_why "
        "test_witnesses_api test_witnessing"
    ).split()
)
"""Modules that ask the database for nothing which other modules do not ask of PostgreSQL 15 too: one server will do for them."""


BROKERS = frozenset({"kafka", "kafka_of_its_own"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that asks for a database, so that CI can run those on PostgreSQL 15 as well, an S3 server or a PKCS#11 token."""
    for item in items:
        if "postgres_url" in getattr(item, "fixturenames", ()) and Path(item.path).stem not in ONE_POSTGRES:
            item.add_marker(pytest.mark.postgres15)
        if item.get_closest_marker("slow"):
            # Of two workers one has all that needs a broker, one after another: two brokers at once would only slow each other down.
            brokered = not BROKERS.isdisjoint(getattr(item, "fixturenames", ()))
            item.add_marker(pytest.mark.xdist_group("kafka" if brokered else Path(item.path).stem))
        if "minio" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.s3)
        if "softhsm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.softhsm)


def pytest_unconfigure() -> None:
    """A thread that a test left behind would keep Python from ending: after a minute it is shown, and the run fails."""
    faulthandler.dump_traceback_later(60, exit=True)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of this test run's own: the embedded one, or the server that TEST_DATABASE_URL names."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with TemporaryDirectory(prefix="aureus-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            yield server.start()
        finally:
            server.stop()


@pytest.fixture(scope="session")
def minio() -> Iterator[Minio]:
    """The S3 server that scripts/minio.sh builds."""
    with TemporaryDirectory(prefix="aureus-s3-") as folder:
        server = Minio(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def opa() -> Iterator[Opa]:
    """The policy server that scripts/opa.sh builds."""
    with TemporaryDirectory(prefix="aureus-opa-") as folder:
        server = Opa(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """The broker that `make kafka` runs; tests have topics of their own there."""
    with broker() as started:
        yield started


@pytest.fixture
def kafka_of_its_own() -> Iterator[Kafka]:
    """A broker that a test may stop, kill and start again."""
    with broker() as started:
        yield started


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Debian's Redis; whoever stops it starts it again."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsm]:
    """A PKCS#11 token that no other test has seen."""
    token = SoftHsm(tmp_path / "softhsm")
    token.make()
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.configuration))
    yield token
    token.let_go()


@pytest.fixture
def keystore(tmp_path: Path) -> FileKeystore:
    """Fresh keys of a ledger that no other test has seen."""
    return FileKeystore.open(tmp_path / "keys")


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """A database that no other test has seen, gone when the test is over."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def shared_database_url(postgres_url: str) -> Iterator[str]:
    """One that the tests of a module share: they look at what lies there, or put it back as it was."""
    with fresh_database(postgres_url) as url:
        yield url


@contextmanager
def fresh_database(postgres_url: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
    address, mark, options = postgres_url.partition("?")
    yield f"{address.rpartition('/')[0]}/{name}{mark}{options}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
