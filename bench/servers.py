"""Servers in processes of their own: started, awaited until they answer, and ended with the benchmark."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.lab import CannotMeasure

START_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 15.0
POLL_SECONDS: Final = 0.005


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, ended in good order (at last by force) when the block is left."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], what: str, log: Path | None = None) -> None:
    """Waits for a server, looking often; CannotMeasure, with the last words of its log, when it ends or takes too long."""
    end = time.monotonic() + START_SECONDS_MAX
    while process.poll() is not None or not ready():  # an answer may be another server's that was quicker to take the port
        problem = f"ended with {process.returncode} while it started" if process.poll() is not None else None
        if problem is None and time.monotonic() > end:
            problem = f"did not answer within {START_SECONDS_MAX:.0f} s"
        if problem is not None:
            said = log.read_text(errors="replace")[-500:].strip() if log else ""
            raise CannotMeasure(f"{what} {problem}: {said or 'it said nothing'}")
        time.sleep(POLL_SECONDS)


def answers(port: int, path: str, headers: Mapping[str, str] | None = None) -> bool:
    """Whether GET `path` is answered with 200, asked on a bare socket so that asking costs next to nothing."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}Connection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request.encode())
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@contextmanager
def uvicorn(app: str, environment: Mapping[str, str]) -> Iterator[int]:
    """The port of an ASGI app under one uvicorn worker at its fastest: uvloop, httptools, no access log."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    with ending(subprocess.Popen(command, env={**os.environ, **environment})) as process:
        wait_until(lambda: answers(port, "/healthz"), process, app)
        yield port
