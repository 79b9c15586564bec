"""Documents are true: the tours print what a fresh Aureus prints, the examples are real, and they name only what is there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from nacl.exceptions import BadSignatureError

from tests.support.tour import compare

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
FORMATS: Final = ROOT / "docs" / "formats.md"
WIRE: Final = ROOT / "tests" / "golden" / "wire"
TOURS: Final = [README, pytest.param(ROOT / "docs" / "tour.md", marks=pytest.mark.slow)]
DOCUMENTS: Final = [README, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", TOURS, ids=lambda path: path.name)
def test_a_tour_prints_what_its_document_says(document: Path) -> None:
    compare(document)


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
    used = re.findall(r"(?:^(?:\$ |    )|`|\()aureus((?: [a-z][a-z0-9-]+){1,2})", document.read_text(encoding="utf-8"), re.MULTILINE)
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
