"""A real Kafka broker of the tests' own, as `make kafka` runs it, in a temporary folder, on free ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

RUN: Final = Path(__file__).parents[2] / "scripts" / "broker.sh"
FETCH: Final = RUN.with_name("kafka.sh")
START_SECONDS_MAX: Final = 60
STOP_SECONDS_MAX: Final = 20
_ASK_FOR_BROKERS: Final = bytes.fromhex("0000000e 0003 0001 00000001 ffff 00000000")
"""A Metadata request, version 1, about no topic."""


class Kafka:
    """One broker, that can be stopped or killed and started again where it was: its topics outlive it."""

    def __init__(self, folder: Path, port: int | None = None, settings: Sequence[str] = ()) -> None:
        self.folder, self.settings = folder / "kafka", list(settings)
        """Where its data lies; settings of Kafka as name=value, for the next start."""
        self._home, self._log = folder, folder / "kafka.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port or 0))
            other.bind(("127.0.0.1", 0))
            self.port, self._controller_port = one.getsockname()[1], other.getsockname()[1]

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers, some 2 s later."""
        ports = {"AUREUS_KAFKA_PORT": str(self.port), "AUREUS_KAFKA_CONTROLLER_PORT": str(self._controller_port)}
        environment = {**os.environ, "AUREUS_HOME": str(self._home), **ports}
        with self._log.open("ab") as log:
            command = [str(RUN), *self.settings]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError):
                if self._brokers() == 1:
                    return
            time.sleep(0.05)
        self.kill()
        pytest.fail(f"Kafka does not start:\n{self._log.read_text(errors='replace')[-2_000:]}", pytrace=False)

    def stop(self) -> None:
        """Ends it in good order."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS_MAX)
            self.kill()

    def kill(self) -> None:
        """Ends it as a power cut would (kill -9)."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def _brokers(self) -> int:
        """How many brokers it knows that take requests: none, while it starts."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection, connection.makefile("rb") as answer:
            connection.sendall(_ASK_FOR_BROKERS)
            return int.from_bytes(answer.read(12)[8:], "big")


@contextmanager
def broker() -> Iterator[Kafka]:
    """One in a folder of its own, gone when the block is over."""
    with TemporaryDirectory(prefix="aureus-kafka-") as folder:
        started = Kafka(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.stop()


class GuardedKafka(Kafka):
    """One that is also reached over TLS, by those who know a password."""

    USER: Final = "aureus"
    PASSWORD: Final = "not-to-be-seen"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.guarded = f"127.0.0.1:{free.getsockname()[1]}"
        self.certificate, keystore = folder / "public.crt", folder / "keystore.pem"
        self._certify(keystore)
        self.settings += [
            f"listeners=PLAINTEXT://{self.servers},SASL_SSL://{self.guarded},CONTROLLER://127.0.0.1:{self._controller_port}",
            "sasl.enabled.mechanisms=SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={keystore}",
        ]

    def start(self) -> None:
        super().start()
        libs = subprocess.run([FETCH], check=True, capture_output=True, text=True).stdout.strip()
        whom = ["--bootstrap-server", self.servers, "--entity-type", "users", "--entity-name", self.USER]
        told = ["--alter", "--add-config", f"SCRAM-SHA-512=[password={self.PASSWORD}]"]
        subprocess.run(["java", "-cp", f"{libs}/*", "kafka.admin.ConfigCommand", *whom, *told], check=True, capture_output=True)

    def _certify(self, keystore: Path) -> None:
        key = keystore.with_suffix(".key")
        made = ["-keyout", str(key), "-out", str(self.certificate)]
        named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run(["openssl", "req", "-x509", *kind, *made, *named], check=True, capture_output=True)
        keystore.write_text(key.read_text() + self.certificate.read_text())
