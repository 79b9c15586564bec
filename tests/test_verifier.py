"""A whole ledger, verified: from memory, from tile files, by one process or several, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from infra.verifier.ledger import FOUNDING_ENTRIES, Verifier
from infra.verifier.notes import WITNESS, VerifierKey
from infra.verifier.result import MAX_PROBLEMS, Result
from infra.verifier.tiles import NotATileDirectory, verify_tiles
from infra.verifier.tree import TILE_WIDTH, tile_path, tiles_of
from infra.verifier.trust import BadTrust, Trust
from infra.verifier.workers import Workers
from tests.support.by_hand import LOG, ROOT, SERVICE, ByHand, Key, b64, tree_root, verifier_key

SIZE: Final = 600
TRUST: Final = Trust("aureus.example/by-hand", (ROOT.id,))
OTHER: Final = Key(20)


def grown(size: int = SIZE) -> ByHand:
    """A ledger whose service key is rotated after the first stretch, so that later ones are checked under keys not known at first."""
    log = ByHand.founded()
    by = SERVICE
    while len(log.entries) < size:
        if len(log.entries) == FOUNDING_ENTRIES + 40:
            log.key_rotated(SERVICE, OTHER, "service")
            by = OTHER
        log.append("budgets.budget_closed", {"budget_id": "lake"}, by, stream=f"budget:{len(log.entries) % 7}")
    return log


@pytest.fixture(scope="module")
def log() -> ByHand:
    return grown()


def verified(log: ByHand, trust: Trust = TRUST, note: bytes | None = None, **said: Any) -> Result:
    verifier = Verifier(trust, **said)
    verifier.add(log.entries)
    return verifier.finish(log.checkpoint() if note is None else note)


def found(result: Result) -> set[tuple[int | None, str]]:
    return {(problem.position, problem.check) for problem in result.problems}


def changed(log: ByHand, position: int, change: Callable[[bytes], bytes]) -> ByHand:
    entries = list(log.entries)
    entries[position - 1] = change(entries[position - 1])
    return ByHand(entries=entries)


# -- results


def test_a_ledger_that_holds(log: ByHand) -> None:
    result = verified(log)
    assert (result.problems, result.complete, result.events, result.signatures, result.keys) == ([], True, SIZE, SIZE, 4)
    assert (result.streams, result.size, result.root) == (8, SIZE, b64(tree_root(log.leaves)))
    assert result.root_key == ROOT.id
    assert result.sentences()[0].startswith(f"Verified {SIZE} events of {log.ledger}: {SIZE} signatures, 8 streams without a gap")
    assert any("No witness" in warning for warning in result.warnings)
    document = json.loads(json.dumps(result.as_json()))
    assert (document["ok"], document["what"], document["checkpoint"]) == (True, "ledger", {"size": SIZE, "root": result.root})


def test_the_tree_and_the_chains_alone(log: ByHand) -> None:
    result = verified(log, full=False)
    assert (result.problems, result.mode, result.signatures, result.streams, result.keys) == ([], "tree", 0, 8, 4)
    assert "no event's signature" in "\n".join(result.sentences())
    forged = changed(log, 400, lambda entry: entry.replace(b'"sig":"', b'"sig":"AAAA')[:-8] + entry[-4:])
    assert found(verified(forged, full=False, note=log.checkpoint())) >= {(SIZE, "tree")}
    dropped = ByHand(entries=log.entries[:399] + log.entries[400:])
    problems = verified(dropped, full=False, note=log.checkpoint()).problems
    assert any(problem.check == "stream" and "is missing" in problem.found for problem in problems)


def test_a_failure_is_told_with_place_check_and_finding(log: ByHand) -> None:
    result = verified(changed(log, 300, lambda entry: entry[:-20] + b"A" + entry[-19:]), note=log.checkpoint())
    assert not result.ok
    assert (300, "signature") in found(result)
    text = "\n".join(result.sentences())
    assert text.startswith("NOT verified: ")
    assert "position 300: signature: that of key" in text


def test_more_problems_than_anybody_reads_are_counted(log: ByHand) -> None:
    result = verified(ByHand(entries=[b"x"] * (MAX_PROBLEMS + 50)), note=log.checkpoint())
    assert len(result.problems) == MAX_PROBLEMS
    assert f"{MAX_PROBLEMS + result.untold} checks failed" in result.sentences()[0]
    assert f"and {result.untold} more" in "\n".join(result.sentences())


# -- trust


def test_another_root_key_and_another_ledger_are_not_trusted(log: ByHand) -> None:
    assert (1, "key") in found(verified(log, Trust(root_keys=(OTHER.id,))))
    assert (1, "ledger") in found(verified(log, Trust("aureus.example/other", (ROOT.id,))))


def test_as_many_witnesses_as_are_required_have_to_have_cosigned(log: ByHand) -> None:
    keys = {f"w{number}.example": Key(30 + number) for number in range(3)}
    trusted = tuple(VerifierKey(name, WITNESS, key.public) for name, key in keys.items())

    def by(*names: str, required: int = 2) -> Result:
        note = log.checkpoint(witnesses={name: keys[name] for name in names})
        return verified(log, Trust(TRUST.ledger, TRUST.root_keys, trusted, required), note)

    assert found(by("w0.example")) == {(None, "witness")}
    enough = by("w0.example", "w2.example")
    assert (enough.problems, enough.warnings) == ([], [])
    assert [(one.witness, one.at) for one in enough.cosigned] == [(name, "2026-03-03T14:00:00Z") for name in ("w0.example", "w2.example")]
    assert "cosigned   by w0.example at 2026-03-03T14:00:00Z, by w2.example" in "\n".join(enough.sentences())
    unknown = verified(log, note=log.checkpoint(witnesses={"stranger.example": OTHER}))
    assert "It bears signatures of stranger.example, and nobody said that you trust them. No witness" in "\n".join(unknown.warnings)
    forged = log.checkpoint(witnesses={"w0.example": keys["w0.example"]}).replace(b"\ntime", b"\nTime")
    name, _, blob = forged.splitlines()[-1].rpartition(b" ")
    forged = forged.replace(name + b" " + blob, name + b" " + blob[:-8] + b"AAAAAAA=")
    assert (None, "witness") in found(verified(log, Trust(TRUST.ledger, TRUST.root_keys, trusted, 0), forged))


def test_witnesses_that_the_ledger_names_are_said_to_be_its_own_word() -> None:
    log, witness = ByHand.founded(), Key(30)
    log.key_added(witness, "witness", "w.example")
    log.append("budgets.budget_closed", {"budget_id": "lake"})
    result = verified(log, note=log.checkpoint(witnesses={"w.example": witness}))
    assert [one.witness for one in result.cosigned] == ["w.example"]
    assert any("taken from the ledger itself" in warning for warning in result.warnings)


TRUST_FILE: Final[dict[str, Any]] = {
    "format": "aureus-trust/v1",
    "ledger": "aureus.example/by-hand",
    "root_keys": [ROOT.id],
    "witnesses": [verifier_key("w.example", Key(30))],
    "witnesses_required": 1,
}


def test_a_trust_file_says_the_same_when_it_is_written_again() -> None:
    trust = Trust.parse(json.dumps(TRUST_FILE).encode())
    assert trust.document() == TRUST_FILE
    assert (trust.root_keys, trust.required, trust.witnesses[0].name) == ((ROOT.id,), 1, "w.example")


BAD_TRUST: Final[dict[str, Any]] = {
    "no JSON": None,
    "format": {"format": "aureus-trust/v2"},
    "a member more": {"more": 1},
    "no ledger": {"ledger": ""},
    "no root key": {"root_keys": []},
    "a root key that is none": {"root_keys": [ROOT.id.upper()]},
    "a witness that is none": {"witnesses": ["w.example"]},
    "witnesses that are none": {"witnesses": 7},
    "a log key as a witness": {"witnesses": [VerifierKey("w.example", 1, LOG.public).text()]},
    "a witness twice": {"witnesses": [verifier_key("w.example", Key(30)), verifier_key("v.example", Key(30))]},
    "more required than there are": {"witnesses_required": 2},
    "required that is no number": {"witnesses_required": True},
}


@pytest.mark.parametrize("changed_to", BAD_TRUST.values(), ids=BAD_TRUST)
def test_a_trust_file_that_cannot_be_used_is_refused(changed_to: dict[str, Any] | None) -> None:
    with pytest.raises(BadTrust):
        Trust.parse(b"{" if changed_to is None else json.dumps(TRUST_FILE | changed_to).encode())


# -- checkpoints


def test_a_checkpoint_that_is_not_the_ledgers(log: ByHand) -> None:
    note = log.checkpoint()
    for wrong in (
        b"",
        b"hello",
        note[:-2],
        log.checkpoint(by=OTHER),
        log.checkpoint(by=SERVICE),
        ByHand(ledger="aureus.example/other").checkpoint(),
    ):
        assert found(verified(log, note=wrong)) == {(None, "checkpoint")}
    verifier = Verifier(TRUST)
    verifier.add(log.entries)
    assert found(verifier.finish(None)) == {(None, "checkpoint")}
    assert found(verified(log, note=log.checkpoint(size=400))) == {(SIZE, "checkpoint")}


def test_a_kept_checkpoint_binds_the_ledger(log: ByHand) -> None:
    assert verified(log, kept=[log.checkpoint(size=size) for size in (3, 255, 256, 257, 599)]).ok
    shorter = ByHand(entries=log.entries[:500])
    assert found(verified(shorter, note=shorter.checkpoint(), kept=[log.checkpoint()])) == {(500, "history")}
    assert found(verified(log, kept=[log.checkpoint(size=2)])) == {(None, "checkpoint")}, "the log key was not there yet"


# -- in several processes


def test_several_processes_come_to_the_same(log: ByHand) -> None:
    wrong = changed(changed(log, 500, lambda entry: entry + b" "), 520, lambda entry: entry.replace(b"A", b"B", 1))
    with Workers(2) as workers:
        assert verified(log, workers=workers) == verified(log)
        assert verified(wrong, note=log.checkpoint(), workers=workers) == verified(wrong, note=log.checkpoint())


# -- a tile directory


def written(log: ByHand, folder: Path) -> Path:
    size, entries = len(log.entries), log.entries
    rows = [log.leaves]
    while len(rows[-1]) >= TILE_WIDTH:
        below = rows[-1]
        full = range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)
        rows.append([tree_root(below[start : start + TILE_WIDTH]) for start in full])
    for level, index, width in tiles_of(size):
        start = index * TILE_WIDTH
        put(folder / tile_path(level, index, width), b"".join(rows[level][start : start + width]))
        if level == 0:
            bundle = b"".join(len(entry).to_bytes(2) + entry for entry in entries[start : start + width])
            put(folder / tile_path("entries", index, width), bundle)
    put(folder / "checkpoint", log.checkpoint())
    return folder


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tiles(folder: Path, **said: Any) -> Result:
    return verify_tiles(folder, TRUST, [], Workers(), lambda _what, _done, _of: None, **said)


def test_a_tile_directory_that_holds(log: ByHand, tmp_path: Path) -> None:
    folder = written(log, tmp_path)
    result = tiles(folder)
    assert (result.what, result.problems, result.complete, result.events) == ("tiles", [], True, SIZE)
    assert tiles(folder, full=False).ok


LAST_TILE: Final = tile_path(0, 2, SIZE - 2 * TILE_WIDTH)
LAST_BUNDLE: Final = tile_path("entries", 2, SIZE - 2 * TILE_WIDTH)
DAMAGES: Final[dict[str, tuple[str, Callable[[bytes], bytes | None], str, str]]] = {
    "a tile's hash": ("tile/0/001", lambda data: data[:32] + bytes(32) + data[64:], "tile", "tile/0/001 byte 32"),
    "a tile that is cut off": ("tile/0/001", lambda data: data[:-1], "tile", "tile/0/001 byte 8191"),
    "a tile that goes on": ("tile/1/000.p/2", lambda data: data + b"x", "tile", "tile/1/000.p/2 byte 64"),
    "a tile that is gone": (LAST_TILE, lambda _: None, "tile", LAST_TILE),
    "a bundle that is gone": (LAST_BUNDLE, lambda _: None, "file", LAST_BUNDLE),
    "a bundle that is cut off": (LAST_BUNDLE, lambda data: data[:-1], "file", LAST_BUNDLE),
    "a bundle that goes on": (LAST_BUNDLE, lambda data: data + b"\0\0", "file", LAST_BUNDLE),
    "an entry": ("tile/entries/001", lambda data: data[:200] + b"!" + data[201:], "entry", "tile/entries/001 byte 2"),
    "a length": ("tile/entries/001", lambda data: b"\0\1" + data[2:], "file", "tile/entries/001 byte"),
    "a checkpoint that is none": ("checkpoint", lambda data: data[1:], "checkpoint", ""),
    "a checkpoint that cannot be read": ("checkpoint", lambda data: data[:-1], "checkpoint", "checkpoint"),
}


@pytest.mark.parametrize(("name", "damage", "check", "where"), DAMAGES.values(), ids=DAMAGES)
def test_a_tile_directory_that_is_damaged(
    log: ByHand, tmp_path: Path, name: str, damage: Callable[[bytes], bytes | None], check: str, where: str
) -> None:
    file = written(log, tmp_path) / name
    content = damage(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)
    problems = tiles(tmp_path).problems
    assert (check, True) in {(problem.check, (problem.where or "").startswith(where)) for problem in problems}, problems


def test_a_checkpoint_of_more_than_there_is_takes_no_time(log: ByHand, tmp_path: Path) -> None:
    folder = written(log, tmp_path)
    text = f"{log.ledger}\n{2**62}\n{b64(bytes(32))}\n"
    note = log.checkpoint().decode()
    (folder / "checkpoint").write_text(text + "\n" + note.partition("\n\n")[2])
    assert "file" in {problem.check for problem in tiles(folder).problems}


def test_a_folder_without_a_checkpoint_is_no_tile_directory(tmp_path: Path) -> None:
    with pytest.raises(NotATileDirectory):
        tiles(tmp_path)
