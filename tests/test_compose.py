"""The containers that Aureus is shipped in: what `docker compose config` would accept, checked where there is no Docker."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "ports", "profiles", "read_only", "restart",
    "security_opt", "shm_size", "tmpfs", "volumes",
}  # fmt: skip
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")
VARIABLE = re.compile(r"\$\{\w+(:[-?+][^}]*)?\}")

pytestmark = pytest.mark.parametrize("name", SERVICES)


def test_the_services_are_there_and_redis_when_it_is_asked_for(name: str) -> None:
    assert set(SERVICES) == {"postgres", "kafka", "redis", "api", "worker"}
    assert (SERVICES[name].get("profiles") == ["redis"]) == (name == "redis")
    assert re.fullmatch(r"[a-z0-9._-]+", name)
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"name", "services", "volumes"}


def test_a_service_says_only_what_compose_knows(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= SERVICE_KEYS
    assert isinstance(service["image"], str)
    assert re.search(r":[\w.-]*\d", service["image"]), "an image is named with its version"
    for key in ("command", "cap_drop", "security_opt", "tmpfs", "ports", "volumes"):
        assert all(isinstance(item, str) for item in service.get(key, [])), key


def test_the_environment_holds_strings(name: str) -> None:
    environment: dict[str, Any] = SERVICES[name].get("environment", {})
    assert all(isinstance(value, str) for value in environment.values()), "numbers and booleans are quoted"
    assert all("$" not in VARIABLE.sub("", value) for value in environment.values())


def test_services_wait_for_services_that_tell_their_health(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert wait["condition"] in CONDITIONS
        assert "healthcheck" in SERVICES[other] or wait["condition"] != "service_healthy"


def test_a_health_check_is_a_command_with_a_rhythm(name: str) -> None:
    check = SERVICES[name].get("healthcheck", {})
    assert set(check) <= HEALTHCHECK_KEYS
    assert not check or check["test"][0] in {"CMD", "CMD-SHELL"}
    assert all(DURATION.fullmatch(check[key]) for key in ("interval", "timeout", "start_period") if key in check)


def test_named_volumes_are_declared(name: str) -> None:
    mounts = [mount.split(":") for mount in SERVICES[name].get("volumes", [])]
    assert {source for source, _target in mounts} <= set(COMPOSE["volumes"])
    assert all(target.startswith("/") for _source, target in mounts)


def test_only_this_machine_reaches_a_port(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_what_we_build_has_no_privileges_and_copies_what_exists(name: str) -> None:
    service = SERVICES[name]
    if "build" not in service:
        return
    recipe = (ROOT / service["build"] / "Dockerfile").read_text(encoding="utf-8")
    copied = [source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", recipe, re.MULTILINE) for source in line.split()]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert "\nUSER aureus\n" in recipe
    assert "--require-hashes" in recipe
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
