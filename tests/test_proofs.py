"""Proofs over HTTP and on the command line: every place of a small log, every size it ever had, and every question that makes no sense."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from commands.access import RegisterActor
from domain.kernel import Asker
from domain.values import Role
from infra.checkpoint import Checkpoint
from infra.envelope import entry_bytes
from infra.merkle import Frontier
from infra.verifier.notes import BadNote, VerifierKey, log_signed, parse_note
from infra.verifier.tlog_proof import TlogProof
from infra.verifier.tree import ProofError, TileTree, check_consistency, check_inclusion, leaf_hash, tile_path
from tests.support.kernel import ADM, ANA, ask, catch_up
from tests.support.running import Aureus, running
from tests.support.trees import grow, plant
from tests.support.typed import ROOT, typed

pytestmark = pytest.mark.anyio
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
SIZE: Final = 12
SIGNED: Final = (3, 5, 7, 10, 12)
"""The sizes with a checkpoint: one for each commit."""


@pytest.fixture(scope="module")
async def still(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    """An Aureus that is only asked."""
    async with twelve_events(shared_database_url, tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    """One that may be changed."""
    async with twelve_events(database_url, tmp_path / "home") as started:
        yield started


@asynccontextmanager
async def twelve_events(dsn: str, home: Path) -> AsyncIterator[Aureus]:
    """Three keys in the first commit, two registered actors, then other things."""
    async with running(dsn, home, reacting=False) as started:
        for one in (AUD, ANA):
            await started.services.path.handle(ask(RegisterActor(actor_id=one.actor, kind=one.kind, granted_roles=tuple(one.roles)), ADM))
        await catch_up(dsn, started.services.ledger)
        await grow(started.services.ledger, SIZE, per_commit=3)
        yield started


async def leaves_of(aureus: Aureus) -> list[bytes]:
    stored = await aureus.services.ledger.entries(0, 10_000)
    return [leaf_hash(entry_bytes(event.body, event.signatures)) for event in stored]


async def asked(aureus: Aureus, path: str, headers: Any = None, **parameters: Any) -> httpx.Response:
    """By nobody in particular."""
    return await aureus.http.get(path, params=parameters, headers=headers)


def root(leaves: list[bytes]) -> bytes:
    return Frontier().extend(leaves).root()


async def test_every_event_in_every_log_that_ever_was(still: Aureus) -> None:
    leaves = await leaves_of(still)
    for size in range(1, SIZE + 1):
        for position in range(1, size + 1):
            proof = (await asked(still, "/v1/proofs/inclusion", position=position, size=size)).json()
            assert (proof["position"], proof["index"], proof["size"]) == (position, position - 1, size)
            assert (b64decode(proof["leaf"]), b64decode(proof["root"])) == (leaves[position - 1], root(leaves[:size]))
            path = [b64decode(text) for text in proof["hashes"]]
            check_inclusion(position - 1, size, leaves[position - 1], path, root(leaves[:size]))
            assert (proof["checkpoint"] is not None) == (size in SIGNED)


async def test_every_log_begins_with_every_earlier_one(still: Aureus) -> None:
    leaves = await leaves_of(still)
    for new in range(1, SIZE + 1):
        for old in range(1, new + 1):
            proof = (await asked(still, "/v1/proofs/consistency", **{"from": old, "to": new})).json()
            assert (proof["from"], proof["to"]) == (old, new)
            old_root, new_root = b64decode(proof["old_root"]), b64decode(proof["new_root"])
            check_consistency(old, new, [b64decode(text) for text in proof["hashes"]], old_root, new_root)
            assert (old_root, new_root) == (root(leaves[:old]), root(leaves[:new]))


async def test_the_root_of_any_size_and_the_latest_log_where_none_is_named(still: Aureus) -> None:
    leaves = await leaves_of(still)
    for size in range(1, SIZE + 1):
        found = (await asked(still, "/v1/proofs/root", size=size)).json()
        assert found == {"size": size, "root": found["root"]}
        assert b64decode(found["root"]) == root(leaves[:size])
    assert (await asked(still, "/v1/proofs/inclusion", position=5)).json()["size"] == SIZE
    assert (await asked(still, "/v1/proofs/consistency", **{"from": 5})).json()["to"] == SIZE


async def test_a_tlog_proof_rests_upon_the_first_signed_log_that_is_large_enough(still: Aureus) -> None:
    leaves = await leaves_of(still)
    keys = (await asked(still, "/v1/ledger/keys")).json()
    key = VerifierKey.parse(keys["log_verifier_key"])
    for position, size, upon in ((1, None, 3), (4, None, 5), (4, 8, 10), (12, None, 12), (1, 12, 12)):
        answer = await asked(still, "/v1/proofs/inclusion", {"Accept": "text/plain"}, position=position, **({"size": size} if size else {}))
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        proof = TlogProof.parse(answer.content)
        assert proof.text() == answer.content
        assert log_signed(parse_note(proof.note), key)
        assert (proof.index, proof.check(leaves[position - 1]).size) == (position - 1, upon)
        with pytest.raises(ProofError, match="hashes to"):
            proof.check(leaves[position - 2])


async def test_a_tlog_proof_rests_upon_a_cosigned_log_where_there_is_one(aureus: Aureus, database_url: str) -> None:
    line = "— witness.example AAAAAAAAAABoAAAA\n".encode()
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("INSERT INTO ledger.cosignatures VALUES (10, 'witness.example', %s, now())", (line,))
    for position, upon in ((1, 10), (9, 10), (10, 10), (11, 12)):
        proof = TlogProof.parse((await asked(aureus, "/v1/proofs/inclusion", {"Accept": "text/plain"}, position=position)).content)
        assert proof.checkpoint().size == upon
        assert proof.note.endswith(line) == (upon == 10)
    assert (await asked(aureus, "/v1/proofs/inclusion", position=1, size=10)).json()["checkpoint"].endswith(line.decode())


UNPROVABLE: Final[tuple[tuple[str, dict[str, Any], str, str], ...]] = (
    ("inclusion", {"position": 0}, "query.position", "greater than or equal to 1"),
    ("inclusion", {"position": -1}, "query.position", "greater than or equal to 1"),
    ("inclusion", {"position": "one"}, "query.position", "valid integer"),
    ("inclusion", {}, "query.position", "Field required"),
    ("inclusion", {"position": 13}, "position", "The log has 12 events, fewer than 13."),
    ("inclusion", {"position": 10**30}, "position", "The log has 12 events"),
    ("inclusion", {"position": 1, "size": 0}, "query.size", "greater than or equal to 1"),
    ("inclusion", {"position": 1, "size": 13}, "size", "The log has 12 events, fewer than 13."),
    ("inclusion", {"position": 8, "size": 7}, "position", "The log of 7 events does not hold position 8."),
    ("consistency", {}, "query.from", "Field required"),
    ("consistency", {"from": 0}, "query.from", "greater than or equal to 1"),
    ("consistency", {"from": 8, "to": 7}, "from", "A log of 7 events did not grow from one of 8."),
    ("consistency", {"from": 13}, "from", "The log has 12 events, fewer than 13."),
    ("consistency", {"from": 1, "to": 13}, "to", "The log has 12 events, fewer than 13."),
    ("root", {"size": 0}, "query.size", "greater than or equal to 1"),
    ("root", {"size": 13}, "size", "The log has 12 events, fewer than 13."),
    ("root", {}, "query.size", "Field required"),
)


async def test_what_cannot_be_proven_is_refused_by_name(still: Aureus) -> None:
    for path, parameters, field, said in UNPROVABLE:
        answer = await asked(still, f"/v1/proofs/{path}", **parameters)
        error = answer.json()["error"]
        assert (answer.status_code, error["details"]["field"]) == (422, field), error
        assert said in error["message"]
        assert error["details"]["remedy"]
    for parameters, field in (({"position": 0}, "query.position"), ({"position": 13}, "position"), ({"position": 1, "size": 13}, "size")):
        answer = await asked(still, "/v1/proofs/inclusion", {"Accept": "text/plain"}, **parameters)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)


async def test_tiles_and_entry_bundles_are_those_of_the_tree(aureus: Aureus) -> None:
    leaves = await leaves_of(aureus)
    await grow(aureus.services.ledger, 600)
    leaves = await leaves_of(aureus)
    for path, expected in {
        "0/000": b"".join(leaves[:256]),
        "0/001": b"".join(leaves[256:512]),
        "0/002.p/88": b"".join(leaves[512:600]),
        "0/000.p/3": b"".join(leaves[:3]),
        "1/000.p/1": root(leaves[:256]),
        "1/000.p/2": root(leaves[:256]) + root(leaves[256:512]),
    }.items():
        answer = await asked(aureus, f"/v1/log/tile/{path}")
        assert (answer.status_code, answer.content) == (200, expected)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    for path, first, count in (("000", 0, 256), ("002.p/88", 512, 88), ("001.p/1", 256, 1)):
        answer = await aureus.get(f"/v1/log/tile/entries/{path}", AUD)
        assert answer.headers["cache-control"].startswith("private")
        assert [leaf_hash(entry) for entry in unbundled(answer.content)] == leaves[first : first + count]


def unbundled(bundle: bytes) -> list[bytes]:
    at, entries = 0, []
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        entries.append(bundle[at + 2 : at + 2 + length])
        at += 2 + length
    return entries


NO_TILES: Final = (
    ("0/0", "Is not the path of a tile", "tile/0/x001/234"),
    ("0/000.p/0", "There is no tile of level 0, index 0, width 0", "tile/0/x001/234"),
    ("0/000.p/256", "is not how the path of a tile is written", "tile/0/x001/234"),
    ("0/x000/000", "is not how the path of a tile is written", "tile/0/x001/234"),
    ("64/000", "There is no tile of level 64", "tile/0/x001/234"),
    ("9x/000", "is not the path of a tile", "tile/0/x001/234"),
    ("0/001", "A log of 12 events has no tile/0/001.", "tiles of a checkpoint you hold"),
    ("0/x123/456", "A log of 12 events has no tile/0/x123/456.", "tiles of a checkpoint you hold"),
    ("1/000.p/1", "A log of 12 events has no tile/1/000.", "tiles of a checkpoint you hold"),
    ("0/000", "In a log of 12 events tile/0/000 is 12 wide, not 256.", "tile/0/000.p/12"),
    ("0/000.p/13", "In a log of 12 events tile/0/000 is 12 wide, not 13.", "tile/0/000.p/12"),
    ("entries/000", "In a log of 12 events tile/entries/000 is 12 wide, not 256.", "tile/entries/000.p/12"),
    ("entries/001.p/1", "A log of 12 events has no tile/entries/001.", "tiles of a checkpoint you hold"),
    ("entries/0", "is not the path of a tile", "tile/0/x001/234"),
)


async def test_tiles_that_are_not_there_are_refused_by_name(still: Aureus) -> None:
    for path, said, remedy in NO_TILES:
        answer = await still.get(f"/v1/log/tile/{path}", AUD)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["details"]["field"]) == (404, "tile_not_found", "tile"), error
        assert said.lower() in error["message"].lower()
        assert remedy in error["details"]["remedy"]


async def test_hashes_are_anybodys_and_entries_are_the_auditors(still: Aureus) -> None:
    assert (await asked(still, "/v1/log/tile/0/000.p/12")).status_code == 200
    assert (await asked(still, "/v1/log/tile/entries/000.p/12")).status_code == 401
    assert (await still.get("/v1/log/tile/entries/000.p/12", ANA)).status_code == 403
    assert (await still.get("/v1/log/tile/entries/000.p/12", AUD)).status_code == 200


async def test_a_root_that_is_not_the_signed_one_is_never_handed_out(aureus: Aureus, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        await owner.execute("UPDATE ledger.events SET leaf = sha256(leaf) WHERE position = 5")
    for path, parameters in (
        ("inclusion", {"position": 1, "size": 10}),
        ("inclusion", {"position": 1}),
        ("consistency", {"from": 2, "to": 5}),
        ("consistency", {"from": 7, "to": 8}),
        ("root", {"size": 12}),
    ):
        answer = await asked(aureus, f"/v1/proofs/{path}", **parameters)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "tiles_damaged")
        assert "is not the one that was signed" in answer.json()["error"]["message"]
    assert (await asked(aureus, "/v1/proofs/root", size=3)).status_code == 200


async def test_proofs_in_a_log_of_three_levels(aureus: Aureus, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        for table in ("events", "checkpoints"):
            await owner.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER ALL; TRUNCATE ledger.{table}".encode())
    leaves = await plant(database_url, 66_000)
    proofs = aureus.services.proofs
    for position, size in ((1, 66_000), (66_000, 66_000), (65_536, 65_537), (300, 65_536), (40_000, 40_001)):
        proof = await proofs.inclusion(position, size)
        check_inclusion(position - 1, size, leaves[position - 1], proof.hashes, root(leaves[:size]))
    for old, new in ((1, 66_000), (65_536, 66_000), (65_535, 65_537), (256, 40_000), (66_000, 66_000)):
        consistency = await proofs.consistency(old, new)
        check_consistency(old, new, consistency.hashes, root(leaves[:old]), root(leaves[:new]))
    assert (await proofs.root(50_000), await proofs.tlog_proof(1, 1)) == (root(leaves[:50_000]), None)


async def test_the_command_line_proves_one_event(still: Aureus, tmp_path: Path) -> None:
    leaves = await leaves_of(still)
    async with typed(still, tmp_path / "cli", AUD) as command:
        file = tmp_path / "five.tlog-proof"
        assert "Position 5 is in the ledger of 5 events" in await command("log", "proof", "5", "-o", str(file))
        assert TlogProof.parse(file.read_bytes()).check(leaves[4]).size == 5
        assert (await command("log", "proof", "5", "--size", "10")).startswith("c2sp.org/tlog-proof@v1\nindex 4\n")
        refused = await command("log", "proof", "99999", exit_code=2)
        assert "fewer than 99999" in refused


async def test_the_command_line_proves_that_the_log_grew(still: Aureus, tmp_path: Path) -> None:
    async with typed(still, tmp_path / "cli", AUD) as command:
        told = await command("log", "consistency", "6", "10")
        assert told.startswith("The ledger of 10 events begins with all 6 of the earlier one")
        assert told.count("signed by the log") == 1
        assert (await command.json("log", "consistency", "3"))["signed"] == [3, 12]
        kept = tmp_path / "checkpoint-then.txt"
        kept.write_text((await asked(still, "/v1/ledger/checkpoint", size=7)).text)
        assert "begins with all 7 of the earlier one" in await command("log", "consistency", str(kept))
        kept.write_text(kept.read_text().replace("\n7\n", "\n8\n"))
        assert "does not hold" in await command("log", "consistency", str(kept), exit_code=8)


async def test_a_log_that_is_not_the_one_of_a_kept_checkpoint_is_refused_by_the_command_line(still: Aureus, tmp_path: Path) -> None:
    """The holder of the log key has signed another history for somebody else."""
    other = Checkpoint(still.services.ledger.name, 7, bytes(32)).signed(still.services.keystore.log)
    (tmp_path / "kept").write_bytes(other)
    async with typed(still, tmp_path / "cli", AUD) as command:
        refused = await command.json("log", "consistency", str(tmp_path / "kept"), exit_code=8)
    assert "its first 7 events are not those that your checkpoint signs" in refused["error"]["message"]


async def test_a_proof_that_was_bent_on_the_way_is_refused_by_the_command_line(aureus: Aureus, database_url: str, tmp_path: Path) -> None:
    """The server hands out another event's bytes under a position whose leaf is proven."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        edited = """convert_to(replace(convert_from(body, 'UTF8'), '"limit_minor":1', '"limit_minor":9'), 'UTF8')"""
        await owner.execute(f"UPDATE ledger.events SET body = {edited} WHERE position = 9".encode())
    async with typed(aureus, tmp_path / "cli", AUD) as command:
        refused = await command.json("log", "proof", "9", exit_code=8)
    assert refused["error"]["code"] == "not_proven"
    assert "leaf 8 of 10 hashes to" in refused["error"]["message"]


async def test_a_mirror_of_the_log_grows_with_it_and_notices_a_changed_past(aureus: Aureus, database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    await grow(aureus.services.ledger, 600)
    async with typed(aureus, tmp_path / "cli", AUD) as command:
        size = aureus.services.ledger.head.size
        assert (await command.json("log", "tiles", str(folder)))["size"] == size
        assert_mirrors(folder, await leaves_of(aureus))
        verified = await command.json("verify", str(folder))
        assert (verified["ok"], verified["what"], verified["events"]) == (True, "tiles", size)
        full = folder / "tile/0/001"
        written = full.stat().st_mtime_ns
        await grow(aureus.services.ledger, 800)
        again = await command.json("log", "tiles", str(folder))
        assert (again["size"], again["fetched"]) == (800, 5), "two tiles and their bundles, and the tile above"
        assert full.stat().st_mtime_ns == written
        assert_mirrors(folder, await leaves_of(aureus))
        note = (folder / "checkpoint").read_bytes()
        full.write_bytes(bytes([full.read_bytes()[0] ^ 1]) + full.read_bytes()[1:])
        refused = await command.json("log", "tiles", str(folder), exit_code=8)
        assert "tile/0/001 does not hash to what the tile above it says" in refused["error"]["message"]
        full.unlink()
        (folder / "checkpoint").write_bytes(note.replace(b"\n800\n", b"\n799\n"))
        refused = await command.json("log", "tiles", str(folder), exit_code=8)
        assert "its past was changed" in refused["error"]["message"]


def assert_mirrors(folder: Path, leaves: list[bytes]) -> None:
    """What a stranger finds in the folder proves the log's root, and each bundle hashes to its tile."""
    tree = TileTree(len(leaves), lambda *place: (folder / tile_path(*place)).read_bytes())
    assert tree.root() == root(leaves)
    assert (folder / "checkpoint").read_text().split("\n")[1] == str(len(leaves))
    for index in range(-(-len(leaves) // 256)):
        width = min(256, len(leaves) - index * 256)
        bundle = (folder / tile_path("entries", index, width)).read_bytes()
        assert b"".join(map(leaf_hash, unbundled(bundle))) == tree.tile(0, index)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "a proof begins with"),
        (b"c2sp.org/tlog-proof@v1\nindex 0\n", "a proof begins with"),
        (b"c2sp.org/tlog-proof@v2\nindex 0\n\nlog\n", "a proof begins with"),
        (b"c2sp.org/tlog-proof@v1\n\nlog\n", "says no index"),
        (b"c2sp.org/tlog-proof@v1\nindex 01\n\nlog\n", "without leading zeros"),
        (b"c2sp.org/tlog-proof@v1\nindex -1\n\nlog\n", "without leading zeros"),
        (b"c2sp.org/tlog-proof@v1\nextra !\nindex 0\n\nlog\n", "the extra data is not base64"),
        (b"c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n\nlog\n", "hashes of 32 bytes"),
        (b"c2sp.org/tlog-proof@v1\nindex 0\n" + b"A" * 43 + b"=\n" * 1 + b"x\n\nlog\n", "is not base64"),
        (b"c2sp.org/tlog-proof@v1\nindex 0\n" + (b"A" * 43 + b"=\n") * 64 + b"\nlog\n", "up to 63 hashes"),
        (b"c2sp.org/tlog-proof@v1\nindex \xff\n\nlog\n", "not ASCII"),
    ],
)
def test_what_is_no_tlog_proof_is_refused(text: bytes, said: str) -> None:
    with pytest.raises((ProofError, BadNote), match=said):
        TlogProof.parse(text)


def test_the_proof_in_the_documentation_holds() -> None:
    text = (ROOT / "docs/formats.md").read_text()
    shown = text[text.index("c2sp.org/tlog-proof@v1\n") :].partition("```")[0].encode()
    entry = (ROOT / "tests/golden/wire/entries.jsonl").read_bytes().splitlines()[1]
    assert TlogProof.parse(shown).check(leaf_hash(entry)).size == 5
    assert shown.endswith((ROOT / "tests/golden/wire/checkpoint.txt").read_bytes())


def test_a_tlog_proof_may_carry_extra_data() -> None:
    proof = TlogProof(4, (bytes(32), bytes([1]) * 32), b"note\n", b"for the reader")
    assert TlogProof.parse(proof.text()) == proof
    assert proof.text().split(b"\n")[1] == b"extra Zm9yIHRoZSByZWFkZXI="
