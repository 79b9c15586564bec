"""A document that is run, word for word: the commands in its console blocks are typed beside a fresh Aureus.

`python -m tests.support.tour docs/tour.md` runs one and shows what it prints here; `--write` puts that in the place of what
the document says it prints: look at the difference before you keep it.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
BLOCK: Final = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
STEP: Final = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VARYING: Final = re.compile(
    rf"{ID.pattern}|(?:usr|agt|witness)-[0-9a-f]{{8}}"  # ids and actors
    r"|\b[0-9a-f]{12,64}\b|[0-9A-Za-z+/]{43}="  # hashes
    r"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+Z)?"  # times
    r"|\b\d{3}\b(?![.,])|\d+(?= streams| decisions)"  # positions, and what is counted of the whole log; never an amount
    r"|[\d,]+(?= bytes)|(?<=byte )\d+"  # sizes and places
    r"|(?<=decoy )\d+|\d+(?= checks? failed)"  # decoys, as many as chance would have, and those among what is found
)

REST: Final = "..."
"""As the last line of an output: what follows is left out."""
START_SECONDS_MAX: Final = 60
END: Final = "-- end of output --"


@dataclass
class Tour:
    """A fresh Aureus, and a shell beside it in which a document's commands are typed."""

    home: Path
    port: int
    known: dict[str, str] = field(default_factory=dict)
    """What an id of the document is called here."""
    _server: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AUREUS_") and name != "DATABASE_URL"}
        command = self.home / "bin" / "aureus"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m api.cli "$@"\n')
        command.chmod(0o700)
        self._environ = {
            **inherited,
            "HOME": str(self.home),
            "AUREUS_PORT": str(self.port),
            "PATH": f"{command.parent}:{inherited['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
        }
        self._shell = subprocess.Popen(
            ["bash"], cwd=ROOT, env=self._environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def told(self, command: str) -> str:
        """What a command of the document prints here, in the document's words for home and port."""
        here = ID.sub(lambda found: self.known.get(found[0], found[0]), command).replace(":8420", f":{self.port}")
        told = self._served() if here == "make run" else self._typed(here)
        told = told.replace(str(self.home), "~").replace(f":{self.port}", ":8420")
        lines = [line.rstrip() for line in told.splitlines()]
        return "\n".join(lines).strip("\n")

    def _typed(self, command: str) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null; echo; echo '{END}'\n")
        self._shell.stdin.flush()
        return "".join(iter(self._shell.stdout.readline, f"{END}\n"))

    def _served(self) -> str:
        """`make run`, in the terminal beside: it is ready when it says so, and goes on."""
        if self._server is not None:
            self._server.wait(START_SECONDS_MAX)
        said, log = self.home / "said", self.home / "log"
        command = [sys.executable, "-m", "api.cli", "serve"]
        with said.open("wb") as output, log.open("ab") as errors:
            # A session of its own: what is killed is this server and nothing else.
            self._server = subprocess.Popen(command, cwd=ROOT, env=self._environ, stdout=output, stderr=errors, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._is_ready():
            assert self._server.poll() is None, log.read_text()[-4_000:]
            assert time.monotonic() < deadline, log.read_text()[-4_000:]
            time.sleep(0.05)
        return said.read_text()

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def close(self) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.close()
        self._shell.wait(START_SECONDS_MAX)
        self._shell.stdout.close()
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            self._server.wait(START_SECONDS_MAX)


def masked(text: str) -> str:
    return VARYING.sub("*", text)


def same_length(told: str, printed: str) -> str:
    """What was told, cut where the document leaves the rest out."""
    lines = printed.splitlines()
    return "\n".join([*told.splitlines()[: len(lines) - 1], REST]) if lines and lines[-1] == REST else told


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def started() -> Iterator[Tour]:
    with TemporaryDirectory() as folder:
        tour = Tour(Path(folder), free_port())
        try:
            yield tour
        finally:
            tour.close()


def compare(document: Path) -> None:
    """Runs every command of a document; AssertionError where it prints something else than the document says."""
    with started() as tour:
        for block in BLOCK.findall(document.read_text(encoding="utf-8")):
            for command, output in STEP.findall(block):
                printed = output.strip("\n")
                told = same_length(tour.told(command), printed)
                assert masked(told) == masked(printed), command
                tour.known |= dict(zip(ID.findall(printed), ID.findall(told), strict=True))


def run(document: Path, show: Callable[[str], object]) -> str:
    """The document with what its commands print now; `show` sees each command and its output as they come."""
    renamed: dict[str, str] = {}
    with started() as tour:

        def step(found: re.Match[str]) -> str:
            command = ID.sub(lambda used: renamed.get(used[0], used[0]), found[1])
            show(f"\n$ {command}")
            full = tour.told(command)
            show(full)
            told = same_length(full, found[2].strip("\n"))
            renamed.update(zip(ID.findall(found[2]), ID.findall(told), strict=False))
            return f"$ {command}\n{told}\n" if told else f"$ {command}\n"

        return BLOCK.sub(lambda block: STEP.sub(step, block[0]), document.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.tour", description=__doc__)
    parser.add_argument("document", type=Path)
    parser.add_argument("--write", action="store_true", help="put what is printed now into the document")
    given = parser.parse_args()
    text = run(given.document, (lambda _text: None) if given.write else partial(print, flush=True))
    if given.write:
        given.document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
