"""A real Keycloak of the tests' own, with the realm of tests/data/keycloak/realm.json, on a free port and in memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import pytest

from infra.oidc_settings import OidcPlace

FETCH: Final = Path(__file__).parents[2] / "scripts" / "keycloak.sh"
REALM: Final = Path(__file__).parents[1] / "data" / "keycloak" / "realm.json"
START_SECONDS_MAX: Final = 180
_AUREUS: Final = "http://127.0.0.1:8420"
"""Where the realm file takes Aureus to be."""
_JAVA: Final = "-Xms96m -Xmx320m -XX:TieredStopAtLevel=1"
"""Little memory, and no time spent on code that will not run for long."""


class Keycloak:
    """One server; what a test changes is changed through its administration API, as an administrator would."""

    def __init__(self, folder: Path, aureus: str) -> None:
        self._log, self._aureus = folder / "keycloak.log", aureus
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.issuer = f"{self.url}/realms/bank"
        self._http = httpx.Client(base_url=self.url, timeout=30)

    @property
    def place(self) -> OidcPlace:
        """The settings of an Aureus whose people these are."""
        return OidcPlace(
            issuer=self.issuer,
            client_id="aureus-console",
            client_secret="the-console-knows",
            public_url=self._aureus,
            name="the bank",
            cli_client_id="aureus-cli",
            audience="aureus",
        )

    def start(self) -> None:
        """Returns when the realm is there, some 12 s later."""
        home = subprocess.run([FETCH], check=True, capture_output=True, text=True).stdout.strip()
        where = ["--http-enabled=true", "--http-host=127.0.0.1", f"--http-port={self.port}", "--hostname-strict=false"]
        admin = {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": "admin", "JAVA_OPTS_KC_HEAP": _JAVA}
        with self._log.open("wb") as log:
            command = [f"{home}/bin/kc.sh", "start", "--optimized", *where]
            self._process = subprocess.Popen(command, env={**os.environ, **admin}, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if self._http.get("/realms/master").status_code == 200:
                    self.admin("POST", "", json.loads(REALM.read_text().replace(_AUREUS, self._aureus)), realm="")
                    return
            time.sleep(0.2)
        self.stop()
        pytest.fail(f"Keycloak does not start:\n{self._log.read_text(errors='replace')[-2_000:]}", pytrace=False)

    def stop(self) -> None:
        """At once: it has nothing to put away."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It takes connections from now on and answers none."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        self._http.close()

    def admin(self, method: str, path: str, body: Any = None, *, realm: str = "/bank") -> Any:
        """What its administration API answers."""
        told = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "admin"}
        token = self._http.post("/realms/master/protocol/openid-connect/token", data=told).raise_for_status().json()["access_token"]
        answer = self._http.request(method, f"/admin/realms{realm}{path}", json=body, headers={"authorization": f"Bearer {token}"})
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def rotate_keys(self) -> None:
        """A new key signs from now on; the old one is still published."""
        config = {"priority": ["200"], "enabled": ["true"], "active": ["true"], "algorithm": ["RS256"]}
        kind = {"providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider"}
        self.admin("POST", "/components", {"name": f"rotated-{time.monotonic_ns()}", **kind, "config": config})

    def user_id(self, name: str) -> str:
        (found,) = self.admin("GET", f"/users?username={name}&exact=true")
        return str(found["id"])

    def move(self, name: str, *, into: str, out_of: str) -> None:
        """Puts somebody into another group."""
        groups = {group["name"]: group["id"] for group in self.admin("GET", "/groups")}
        user = self.user_id(name)
        self.admin("DELETE", f"/users/{user}/groups/{groups[out_of]}")
        self.admin("PUT", f"/users/{user}/groups/{groups[into]}")

    def access_token(self, name: str, scope: str) -> str:
        """As another application of the bank's has it for one of its users."""
        told = {"grant_type": "password", "client_id": "risk-desk", "username": name, "password": f"{name}-at-the-bank"}
        answer = self._http.post(f"{self.issuer}/protocol/openid-connect/token", data={**told, "scope": f"openid {scope}"})
        return str(answer.raise_for_status().json()["access_token"])


@contextmanager
def keycloak(aureus: str) -> Iterator[Keycloak]:
    """One for an Aureus that is reached at this address, gone when the block is over."""
    with TemporaryDirectory(prefix="aureus-keycloak-") as folder:
        started = Keycloak(Path(folder), aureus)
        try:
            started.start()
            yield started
        finally:
            started.close()
