"""Attacks on packs: a byte changed on the way, and an exporter who holds the service key and would rather leave something out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import multiprocessing
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from infra.verifier.topics import EMPTY_CHAIN, chain_step
from infra.verifier.trust import Trust
from tests.support.flipping import flipped
from tests.support.keys import new_key
from tests.support.packs import verified
from tests.support.repacking import Packs, packed, repacked

Members = dict[str, bytes]
Predicate = dict[str, Any]
ENTRIES: Final = "entries/000000.tsv"
ROWS: Final = "index/topics/000000.tsv"
PROCESSES: Final = 2


@pytest.fixture(scope="module")
def packs(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Packs:
    made = asyncio.run(packed(shared_database_url, tmp_path_factory.mktemp("packs")))
    for pack in (made.small, made.some, made.all):
        assert verified(pack, made.trust).problems == []
    return made


@pytest.mark.slow
def test_no_byte_of_a_pack_changes_unnoticed(packs: Packs, tmp_path: Path) -> None:
    size = packs.small.stat().st_size
    share = -(-size // PROCESSES)
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        parts = [
            pool.submit(flipped, packs.small, tmp_path / f"{number}.zip", packs.trust, number * share, (number + 1) * share)
            for number in range(PROCESSES)
        ]
        found = [told for part in parts for told in part.result()]
    assert [at for at, _ in found] == list(range(size))
    assert [at for at, checks in found if not checks] == []


def test_no_byte_of_what_the_log_signed_changes_unnoticed_though_all_else_is_made_to_fit(packs: Packs, tmp_path: Path) -> None:
    """Checksums and the manifest are those of the changed bytes: one byte in 23, of all that the ledger itself signed or hashed."""
    silent = []
    for name, content in members_of(packs.some).items():
        for at in range(0, len(content), 23) if name.startswith(("log/", "keys", "entries/", "index/")) else ():
            with_it = {name: content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]}
            pack = repacked(packs.some, tmp_path / "p.zip", packs.service, lambda members, _, changed=with_it: members.update(changed))  # type: ignore[misc]
            if verified(pack, packs.trust).ok:
                silent.append((name, at))
    assert silent == []


def members_of(pack: Path) -> Members:
    with zipfile.ZipFile(pack) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# -- what an exporter could leave out, or make up


def without(content: bytes, position: int) -> bytes:
    """Lines of positions, but for one."""
    return b"".join(line for line in content.splitlines(keepends=True) if not line.startswith(b"%d\t" % position))


def positions(content: bytes) -> list[int]:
    return [int(line.partition(b"\t")[0]) for line in content.splitlines()]


def left_out(members: Members, claims: Predicate) -> None:
    """An event is not in the entries, and not counted."""
    members[ENTRIES] = without(members[ENTRIES], positions(members[ENTRIES])[-1])
    claims["counts"]["entries"] -= 1


def left_out_of_the_rows(members: Members, claims: Predicate) -> None:
    left_out(members, claims)
    members[ROWS] = without(members[ROWS], positions(members[ROWS])[-1])


def left_out_of_the_index(members: Members, claims: Predicate) -> None:
    """The rows come to the count and the chain that the manifest tells, but the ledger committed to others."""
    left_out_of_the_rows(members, claims)
    chain, rows = EMPTY_CHAIN, [line.split(b"\t") for line in members[ROWS].splitlines()]
    for position, leaf in rows:
        chain = chain_step(chain, int(position), bytes.fromhex(leaf.decode()))
    claims["index"]["topics"][0] |= {"count": len(rows), "chain": chain.hex()}


def never_heard_of(members: Members, claims: Predicate) -> None:
    """There never was an event of that actor."""
    del members[ENTRIES]
    members[ROWS] = members["disclosures.jsonl"] = b""
    claims["counts"]["entries"] = 0
    claims["index"]["topics"] = [{"topic": "actor:usr-eve", "absent": True, "before": None, "after": None}]


def another_topic(members: Members, claims: Predicate) -> None:
    """The proof is about somebody who did nothing."""
    never_heard_of(members, claims)
    claims["index"]["topics"][0]["topic"] = "actor:usr-nobody"


def ended_early(members: Members, claims: Predicate) -> None:
    """The range ends before the last event, though nobody asked for a period."""
    last = positions(members[ENTRIES])[-1]
    left_out(members, claims)
    claims["range"]["until"] = last - 1


def ended_early_with_a_fence(members: Members, claims: Predicate) -> None:
    last = positions(members[ENTRIES])[-1]
    claims["range"]["until"], claims["fences"]["after"] = last - 1, last
    claims["counts"]["outside_period"] = 1


def said_to_be_of_a_period(members: Members, claims: Predicate) -> None:
    """A time is stated that does not fit the event beyond it."""
    ended_early_with_a_fence(members, claims)
    claims["selection"]["to"] = "2099-01-01T00:00:00.000000Z"


def exchanged(members: Members, claims: Predicate) -> None:
    """An event of the ledger, under the position of another."""
    first, second = members[ENTRIES].splitlines()
    (one, entry), (other, another) = first.split(b"\t"), second.split(b"\t")
    members[ENTRIES] = b"%b\t%b\n%b\t%b\n" % (one, another, other, entry)


def unasked_for(members: Members, claims: Predicate) -> None:
    """A key event among the entries."""
    key = members["keys.tsv"].splitlines(keepends=True)[0]
    members[ENTRIES] = key + members[ENTRIES]
    claims["counts"]["entries"] += 1


def with_a_key_less(members: Members, claims: Predicate) -> None:
    """As somebody would who hides that a key was revoked."""
    members["keys.tsv"] = without(members["keys.tsv"], positions(members["keys.tsv"])[-1])
    claims["counts"]["keys"] -= 1


def with_another_name(members: Members, claims: Predicate) -> None:
    lines = map(json.loads, members["disclosures.jsonl"].splitlines())
    line = next(one for one in lines if one["name"] == "display_name")
    salt, name, _ = json.loads(base64.urlsafe_b64decode(line["disclosure"] + "=="))
    forged = base64.urlsafe_b64encode(json.dumps([salt, name, "Somebody Else"]).encode()).rstrip(b"=").decode()
    members["disclosures.jsonl"] = members["disclosures.jsonl"].replace(line["disclosure"].encode(), forged.encode())


def with_other_evidence(members: Members, claims: Predicate) -> None:
    members[f"artifacts/{hashlib.sha256(b'a contract').hexdigest()}"] = b"another contract"


def with_a_tile_of_another_tree(members: Members, claims: Predicate) -> None:
    name = next(name for name in members if name.startswith("log/tile/0/"))
    members[name] = members[name][32:64] + members[name][:32] + members[name][64:]


def under_another_checkpoint(members: Members, claims: Predicate) -> None:
    members["log/checkpoint"] = members["log/checkpoint"].replace(b"\n%d\n" % claims["checkpoint"]["size"], b"\n4\n")
    claims["checkpoint"]["size"] = 4


Finding = tuple[int | None, str]
LAST: Final = 11
"""Where the last event of the actor stands."""
DECEPTIONS: Final[list[tuple[Callable[[Members, Predicate], None], set[Finding]]]] = [
    (left_out, {(LAST, "missing")}),
    (left_out_of_the_rows, {(None, "index")}),
    (left_out_of_the_index, {(None, "index")}),
    (never_heard_of, {(None, "index")}),
    (another_topic, {(None, "index")}),
    (ended_early, {(None, "period"), (None, "manifest"), (LAST, "missing")}),
    (ended_early_with_a_fence, {(None, "period")}),
    (said_to_be_of_a_period, {(LAST, "period")}),
    (exchanged, {(LAST - 1, "tree"), (LAST, "tree"), (LAST, "field"), (None, "disclosure")}),
    (unasked_for, {(1, "key"), (None, "tenant"), (1, "selection")}),
    (with_a_key_less, {(None, "missing")}),
    (with_another_name, {(None, "disclosure"), (LAST - 1, "field")}),
    (with_other_evidence, {(None, "artifact")}),
    (with_a_tile_of_another_tree, {(1, "tree"), (2, "tree"), (None, "tree")}),
    (under_another_checkpoint, {(None, "manifest")}),
]


@pytest.mark.parametrize(("deceive", "found"), DECEPTIONS, ids=lambda part: getattr(part, "__name__", ""))
def test_an_exporter_leaves_nothing_out_and_makes_nothing_up(
    packs: Packs, tmp_path: Path, deceive: Callable[[Members, Predicate], None], found: set[Finding]
) -> None:
    """Each time the manifest lists what is there, and is signed by the service key."""
    result = verified(repacked(packs.some, tmp_path / "pack.zip", packs.service, deceive), packs.trust)
    assert {(problem.position, problem.check) for problem in result.problems} == found


def test_of_everything_no_position_is_missing(packs: Packs, tmp_path: Path) -> None:
    def drop(members: Members, claims: Predicate) -> None:
        members[ENTRIES] = without(members[ENTRIES], LAST)
        claims["counts"]["entries"] -= 1

    result = verified(repacked(packs.all, tmp_path / "pack.zip", packs.service, drop), packs.trust)
    assert (LAST, "missing") in {(problem.position, problem.check) for problem in result.problems}
    assert not result.complete


def test_what_is_withheld_is_told(packs: Packs, tmp_path: Path) -> None:
    """An exporter may keep events back, and has to say at which positions."""

    def withhold(members: Members, claims: Predicate) -> None:
        left_out(members, claims)
        claims["withheld"], claims["counts"]["withheld_entries"] = [LAST], 1

    result = verified(repacked(packs.some, tmp_path / "pack.zip", packs.service, withhold), packs.trust)
    assert result.problems == []
    assert any("withheld" in sentence and "1" in sentence for sentence in result.sentences())


def test_a_manifest_is_signed_by_the_service_key_and_of_this_pack(packs: Packs, tmp_path: Path) -> None:
    for signer in (new_key(), packs.log):
        result = verified(repacked(packs.some, tmp_path / "pack.zip", signer, lambda _members, _claims: None), packs.trust)
        assert {problem.check for problem in result.problems} == {"manifest"}
    elsewhere = Trust(packs.trust.ledger, (new_key().key_id,))
    assert "key" in {problem.check for problem in verified(packs.some, elsewhere).problems}
