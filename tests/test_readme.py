"""The README is run, word for word: its tour prints what a fresh Aureus prints, and documents name only what is there.

`python -m tests.test_readme` writes the tour's output anew; look at the difference before you keep it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from nacl.exceptions import BadSignatureError

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
FORMATS: Final = ROOT / "docs" / "formats.md"
WIRE: Final = ROOT / "tests" / "golden" / "wire"
DOCUMENTS: Final = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK: Final = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
STEP: Final = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VARYING: Final = re.compile(
    rf"{ID.pattern}|(?:usr|agt)-[0-9a-f]{{8}}"  # ids and actors
    r"|\b[0-9a-f]{16,64}\b|[0-9A-Za-z+/]{43}="  # hashes
    r"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+Z)?"  # times
    r"|\b\d{3}\b(?![.,])|\d+(?= streams)"  # positions, and what is counted of the whole log; never an amount
)

REST: Final = "..."
"""As the last line of an output: what follows is left out."""

START_SECONDS_MAX: Final = 60
END: Final = "-- end of output --"


@dataclass
class Tour:
    """A fresh Aureus, and a shell beside it in which the README's commands are typed."""

    home: Path
    port: int
    known: dict[str, str] = field(default_factory=dict)
    """What an id of the README is called here."""
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
        """What a command of the README prints here, in the README's words for home and port."""
        here = ID.sub(lambda found: self.known.get(found[0], found[0]), command).replace(":8420", f":{self.port}")
        told = self._served() if here == "make run" else self._typed(here)
        told = told.replace(str(self.home / ".aureus"), "~/.aureus").replace(f":{self.port}", ":8420")
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
    """What was told, cut where the README leaves the rest out."""
    lines = printed.splitlines()
    return "\n".join([*told.splitlines()[: len(lines) - 1], REST]) if lines and lines[-1] == REST else told


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_the_tour_prints_what_the_readme_says(tmp_path: Path) -> None:
    tour = Tour(tmp_path, free_port())
    try:
        for block in BLOCK.findall(README.read_text(encoding="utf-8")):
            for command, output in STEP.findall(block):
                printed = output.strip("\n")
                told = same_length(tour.told(command), printed)
                assert masked(told) == masked(printed), command
                tour.known |= dict(zip(ID.findall(printed), ID.findall(told), strict=True))
    finally:
        tour.close()


def test_the_verifier_in_the_formats_needs_none_of_our_code() -> None:
    """The document's own program accepts the golden ledger, and nothing that was changed in it."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", FORMATS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {"__name__": "verify"}
    exec(program, scope)
    entries, note = (WIRE / "entries.jsonl").read_bytes().splitlines(), (WIRE / "checkpoint.txt").read_bytes()
    root_key = json.loads(base64.b64decode(json.loads(entries[0])["payload"]))["key"]
    assert scope["verify"](entries, note, root_key).startswith(f"{len(entries)} events of aureus.example/golden hold")
    altered = entries[3].replace(b"eyJ", b"eyK", 1)
    forgeries = {
        "altered": ([*entries[:3], altered, *entries[4:]], note, root_key),
        "dropped": ([*entries[:3], *entries[4:]], note, root_key),
        "swapped": ([*entries[:3], *entries[:2:-1]], note, root_key),
        "cut off": (entries[:-1], note, root_key),
        "checkpoint": (entries, note.replace(b"\n5\n", b"\n6\n"), root_key),
        "root key": (entries, note, root_key[::-1]),
    }
    for how, forged in forgeries.items():
        with pytest.raises((AssertionError, ValueError, BadSignatureError)):
            pytest.fail(f"{how}: {scope['verify'](*forged)}", pytrace=False)


def test_the_examples_in_the_formats_are_the_golden_ledgers() -> None:
    text = "".join(FORMATS.read_text(encoding="utf-8").split())
    entries = (WIRE / "entries.jsonl").read_bytes().splitlines()
    shown = [base64.b64decode(json.loads(entries[4])["payload"]).decode(), (WIRE / "checkpoint.txt").read_text(encoding="utf-8")]
    leaves = [hashlib.sha256(b"\0" + entry).hexdigest() for entry in entries]
    assert [part for part in [*shown, *leaves] if "".join(part.split()) not in text] == []
    (disclosure,) = re.findall(r"disclosure(\w+)\[", text)
    digest = base64.urlsafe_b64encode(hashlib.sha256(disclosure.encode()).digest()).rstrip(b"=").decode()
    assert text.count(digest) == 2, "in the body, and beside the disclosure"


def commands_of_the_cli() -> set[str]:
    return set(re.findall(r"^## `(aureus[\w -]*)`$", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_commands_that_are_there(document: Path) -> None:
    known = commands_of_the_cli()
    used = re.findall(r"(?:^(?:\$ |    )|`|\()aureus((?: [a-z][a-z-]+){1,2})", document.read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [words for words in used if not {f"aureus{words}", f"aureus {words.split()[0]}"} & known]
    groups = {command.split()[1] for command in known if command.count(" ") == 2}
    unknown += [words for words in used if words.split()[0] in groups and " " in words.strip() and f"aureus{words}" not in known]
    assert unknown == []


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not name.startswith("http") and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


def write_anew() -> None:
    """Runs the tour and puts what it prints now in the place of what it printed."""
    with TemporaryDirectory() as folder:
        tour = Tour(Path(folder), free_port())

        def step(found: re.Match[str]) -> str:
            command = ID.sub(lambda used: renamed.get(used[0], used[0]), found[1])
            told = same_length(tour.told(command), found[2].strip("\n"))
            renamed.update(zip(ID.findall(found[2]), ID.findall(told), strict=False))
            return f"$ {command}\n{told}\n" if told else f"$ {command}\n"

        renamed: dict[str, str] = {}
        try:
            text = BLOCK.sub(lambda block: STEP.sub(step, block[0]), README.read_text(encoding="utf-8"))
        finally:
            tour.close()
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_anew()
