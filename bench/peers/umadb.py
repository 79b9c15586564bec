"""UmaDB: an event store in Rust that commits many clients' appends together; its server comes in the PyPI wheel.

Best safe setting: the server's defaults (it flushes before it answers; the pipelined writer gained nothing here), 64
clients with a connection each, in threads - the client releases Python's lock while it waits. Each append carries a
condition, the counterpart of our expected version; nothing is signed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from umadb import AppendCondition, Client, Event, Query, QueryItem

from bench import workload
from bench.lab import CannotMeasure, Lab, ticking
from bench.measure import Sample
from bench.servers import ending, free_port, wait_until

CLIENTS: Final = 64


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of a server on an empty folder."""
    script = shutil.which("umadb", path=str(Path(sys.executable).parent)) or shutil.which("umadb")
    if script is None:
        raise CannotMeasure("the umadb server is not installed: pip install -r requirements-dev.txt")
    port = free_port()
    command = [script, "--listen", f"127.0.0.1:{port}", "--db-path", str(folder)]
    with ending(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)) as process:
        wait_until(lambda: _listens(port), process, "umadb")
        yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def appends(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """One event per append, 64 clients, each on a stream (a tag) of its own."""
    with server(lab.subfolder("umadb")) as url, ThreadPoolExecutor(CLIENTS) as threads:
        writers = [_Writer(Client(url), number) for number in range(CLIENTS)]

        def one_round() -> Sample:
            started = time.perf_counter()
            going = ticking(lab.round_seconds, time.perf_counter)
            written = sum(threads.map(lambda writer: writer.write(going), writers))
            return {"rate": written / (time.perf_counter() - started)}

        yield one_round


class _Writer:
    """One client and where its stream stands."""

    def __init__(self, client: Client, number: int) -> None:
        self._client, self._tag = client, f"lake-{number}"
        self._mine = Query([QueryItem(tags=[self._tag])])
        self._data = workload.payload()
        self._last: int | None = None

    def write(self, going: Callable[[], bool]) -> int:
        written = 0
        while going():
            event = Event("budgets.funds_reserved", self._data, [self._tag], uuid4())
            self._last = self._client.append([event], AppendCondition(self._mine, self._last))
            written += 1
        return written
