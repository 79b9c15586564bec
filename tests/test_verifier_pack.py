"""A pack accounts for what is in it and for what is not: written by a second writer, and put otherwise in every way we could think of."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.verifier.notes import WITNESS, VerifierKey
from infra.verifier.pack import NotAPack, verify_pack
from infra.verifier.result import Result
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers
from tests.support.by_hand import LOG, ROOT, SERVICE, ByHand, Key, canonical, sha256
from tests.support.reference_pack import Index, Pack, everything, selection, write_zip

TRUST: Final = Trust(ledger="aureus.example/by-hand", root_keys=(ROOT.id,))
OTHER: Final = Key(20)
ORDERS: Final = (["about:dataset:orders"], ["jurisdiction:EU", "jurisdiction:-"])
SPAN: Final = (6, 13)
COMMITTED: Final = 16


def disclosure(salt: str, name: str, value: Any) -> tuple[str, str]:
    """(disclosure, digest), as docs/formats.md has them."""
    encoded = urlsafe_b64encode(canonical([salt, name, value])).rstrip(b"=").decode()
    return encoded, urlsafe_b64encode(sha256(encoded.encode())).rstrip(b"=").decode()


OPEN, OPEN_DIGEST = disclosure("c2FsdA", "contact", "Zdenka")
HIDDEN_DIGEST = disclosure("c2FsdB", "contact", "Mirek")[1]
GONE_DIGEST = disclosure("c2FsdC", "contact", "Jan")[1]
DECOY_DIGEST = disclosure("c2FsdD", "", "")[1]
FIELDS: Final = (
    {"digest": OPEN_DIGEST, "name": "contact", "position": 9, "state": "open", "disclosure": OPEN},
    {"digest": HIDDEN_DIGEST, "name": "contact", "position": 11, "state": "withheld"},
    {"digest": GONE_DIGEST, "position": 13, "state": "erased", "certificate": 17},
)
SELECTED: Final = {
    "datasets": ["orders"],
    "jurisdictions": ["EU"],
    "from": "2026-03-03T14:00:07.000000Z",
    "to": "2026-03-03T14:00:14.000000Z",
}


def ledger() -> ByHand:
    """Two datasets. Of `orders`: 4, 5 before the period, 7, 9, 10, 11, 13 in it, 14 after it; `people` stands under other law."""
    log = ByHand.founded()
    digests = {9: [OPEN_DIGEST], 11: sorted([HIDDEN_DIGEST, DECOY_DIGEST]), 13: [GONE_DIGEST]}
    for position in range(4, 16):
        name, law = ("orders", "EU") if position not in (6, 8, 12, 15) else ("people", "US")
        data: dict[str, Any] = {"dataset_id": name, "owner_id": "own-1"} | (
            {"profile": {"jurisdiction": law}} if position in (4, 6) else {}
        )
        kind = "catalog.usage_recorded" if position == 10 else "catalog.dataset_changed"
        log.append(kind, data, stream=f"dataset:{name}", _sd=digests.get(position, []))
    assert Index.of(log, 15).commit(15) == COMMITTED
    certificate(log)
    return log


def certificate(log: ByHand, **said: Any) -> int:
    """The position of the certificate that own-1 was erased up to 13; or what `said` makes of it."""
    data = {"subject_id": "own-1", "ordered_position": 12, "until": 13, **said.pop("data", {})}
    members = {"actor": "svc-reactions", "stream": "subject:own-1", "type": "subjects.subject_erased", **said}
    return log.append(members.pop("type"), data, **members)


def of_orders(log: ByHand | None = None, **said: Any) -> Pack:
    said = {"selection": SELECTED, "withhold": ("catalog.usage_recorded",), "fields": FIELDS, "certificates": [17], **said}
    return selection(log or ledger(), COMMITTED, ORDERS, SPAN, **said)


def verified(path: Path, trust: Trust = TRUST, *, full: bool = True, kept: tuple[bytes, ...] = ()) -> Result:
    return verify_pack(path, trust, kept, Workers(), lambda _what, _done, _of: None, full=full)


def found(result: Result) -> set[tuple[int | None, str]]:
    return {(problem.position, problem.check) for problem in result.problems}


# -- good packs


def test_a_selection_that_leaves_nothing_out(tmp_path: Path) -> None:
    result = verified(of_orders().write(tmp_path / "pack.zip"))
    assert result.problems == []
    assert (result.complete, result.tenant, result.events, result.signatures, result.keys) == (True, "acme", 11, 11, 3)
    assert result.fields == {"open": 1, "withheld": 1, "erased": 1, "missing": 0, "decoy": 0, "untold": 1}
    said = "\n".join(result.sentences())
    assert "Verified 11 events of aureus.example/by-hand: 11 signatures, all valid under keys valid at their positions" in said
    assert "nothing missing in the range" in said
    assert "range      positions 7 to 13: datasets orders; jurisdictions EU, from 2026-03-03T14:00:07" in said
    assert "open 1, withheld 1, erased 1, missing 0, decoy 0, untold 1" in said
    assert "No witness" in said


def test_everything_there_is(tmp_path: Path) -> None:
    result = verified(everything(ledger()).write(tmp_path / "pack.zip"))
    assert (result.problems, result.complete, result.events, result.streams) == ([], True, 17, 5)


def test_everything_of_a_period(tmp_path: Path) -> None:
    period = {"from": "2026-03-03T14:00:07.000000Z", "to": "2026-03-03T14:00:10.000000Z"}
    result = verified(everything(ledger(), (6, 9), selection=period).write(tmp_path / "pack.zip"))
    assert (result.problems, result.complete) == ([], True)


def test_a_selection_of_what_was_never_there(tmp_path: Path) -> None:
    for name in ("aaa", "nothing", "zzz"):
        pack = selection(ledger(), COMMITTED, ([f"about:dataset:{name}"], []), (0, 15), selection={"datasets": [name]})
        result = verified(pack.write(tmp_path / "pack.zip"))
        assert (result.problems, result.complete, result.events) == ([], True, 4), name


def test_the_tree_alone(tmp_path: Path) -> None:
    result = verified(of_orders().write(tmp_path / "pack.zip"), full=False)
    assert (result.problems, result.complete, result.mode) == ([], True, "tree")
    assert "no event's signature" in "\n".join(result.sentences())


def test_a_kept_checkpoint_is_compared(tmp_path: Path) -> None:
    log, other = ledger(), ByHand.founded()
    path = of_orders(log).write(tmp_path / "pack.zip")
    other.append("budgets.budget_closed", {})
    assert verified(path, kept=(log.checkpoint(size=9),)).ok
    assert found(verified(path, kept=(other.checkpoint(),))) == {(4, "history")}
    for _ in range(20):
        log.append("budgets.budget_closed", {})
    later = verified(path, kept=(log.checkpoint(),))
    assert later.ok
    assert any("compare it with a later pack" in warning for warning in later.warnings)


# -- whoever holds the service key, and wants to deceive


def without(name: str, position: int) -> Callable[[Pack], None]:
    def change(pack: Pack) -> None:
        lines = pack.members[name].splitlines(keepends=True)
        left = [line for line in lines if not line.startswith(b"%d\t" % position)]
        assert len(left) == len(lines) - 1
        pack.members[name] = b"".join(left)
        if name.startswith("entries/"):
            pack.predicate["counts"]["entries"] -= 1

    return change


def put(name: str, content: bytes) -> Callable[[Pack], None]:
    """Something else in place of a member, or one more just before the fields."""

    def change(pack: Pack) -> None:
        if name in pack.members:
            pack.members[name] = content
        else:
            pack.members = {**dict(list(pack.members.items())[:-1]), name: content, "disclosures.jsonl": pack.members["disclosures.jsonl"]}

    return change


def claim(*path: Any) -> Callable[[Pack], None]:
    """Another value in the predicate: the last of these, at the place the others lead to."""

    def change(pack: Pack) -> None:
        place: Any = pack.predicate
        for step in path[:-2]:
            place = place[step]
        place[path[-2]] = path[-1]

    return change


def each(*changes: Callable[[Pack], None]) -> Callable[[Pack], None]:
    def all_of_them(pack: Pack) -> None:
        for change in changes:
            change(pack)

    return all_of_them


def forged_rows(pack: Pack) -> None:
    """The event at 9 is left out of the rows as well, and their chain is made to fit."""
    without("entries/000000.tsv", 9)(pack)
    without("index/topics/000000.tsv", 9)(pack)
    index = Index(pack.log, {"about:dataset:orders": [4, 5, 7, 10, 11, 13, 14]})
    pack.predicate["index"]["topics"][0] |= {"count": 7, "chain": index.chain("about:dataset:orders")}


def another_event(pack: Pack) -> None:
    log = ByHand(entries=list(pack.log.entries), bodies=list(pack.log.bodies))
    log.add(canonical({**pack.log.bodies[8], "data": {"dataset_id": "orders", "forged": True}}), SERVICE)
    lines = pack.members["entries/000000.tsv"].splitlines()
    lines = [b"9\t" + log.entries[-1] if line.startswith(b"9\t") else line for line in lines]
    pack.members["entries/000000.tsv"] = b"\n".join(lines) + b"\n"


def swapped(pack: Pack) -> None:
    first, second, *rest = pack.members["entries/000000.tsv"].splitlines(keepends=True)
    pack.members["entries/000000.tsv"] = b"".join([second, first, *rest])


def one_more(pack: Pack) -> None:
    pack.lines("entries/000000.tsv", [5, 7, 8, 9, 11, 13, 14])
    pack.predicate["counts"]["entries"] += 1


def reordered(pack: Pack) -> None:
    names = list(pack.members)
    names[2], names[3] = names[3], names[2]
    pack.members = {name: pack.members[name] for name in names}


def field(number: int, **changed: Any) -> Callable[[Pack], None]:
    lines = [dict(line) for line in FIELDS]
    lines[number] |= changed
    return put("disclosures.jsonl", b"".join(canonical(line) + b"\n" for line in lines))


LIES: Final[dict[str, tuple[Callable[[Pack], Any], set[tuple[int | None, str]]]]] = {
    "an event is left out": (without("entries/000000.tsv", 9), {(9, "missing")}),
    "the event next to the period is left out": (without("entries/000000.tsv", 14), {(14, "missing")}),
    "an event is left out of the rows too": (
        each(without("entries/000000.tsv", 9), without("index/topics/000000.tsv", 9)),
        {(None, "index")},
    ),
    "and the chain is made to fit": (forged_rows, {(None, "index")}),
    "an event is said to be withheld that is there": (
        each(claim("withheld", [9, 10]), claim("counts", "withheld_entries", 2)),
        {(9, "selection")},
    ),
    "an event nobody asked for": (one_more, {(8, "selection")}),
    "another event in place of one": (another_event, {(9, "tree")}),
    "two lines changed places": (swapped, {(None, "file"), (5, "missing")}),
    "a period that ends earlier": (each(claim("range", "until", 10), claim("fences", "after", 11)), {(11, "period")}),
    "a period that begins later": (each(claim("range", "after", 7), claim("fences", "before", 7)), {(7, "period")}),
    "a range without a period": (each(claim("selection", "from", None), claim("selection", "to", None)), {(None, "period")}),
    "fences that are not named": (claim("fences", {"before": None, "after": None}), {(None, "period")}),
    "a jurisdiction that was not asked for": (claim("selection", "jurisdictions", ["US"]), {(None, "index")}),
    "an index that is a later one": (claim("index", "position", 17), {(None, "index")}),
    "an index of another size": (claim("index", "size", 14), {(16, "index")}),
    "another event as the index": (
        each(claim("index", "position", 17), lambda pack: pack.lines("index/committed.tsv", [17])),
        {(17, "index"), (None, "missing")},
    ),
    "counts that are not so": (claim("counts", "other_jurisdiction", 7), {(None, "manifest")}),
    "another checkpoint": (claim("checkpoint", "size", 16), {(None, "checkpoint")}),
    "another ledger": (claim("ledger", "aureus.example/other"), {(None, "ledger")}),
    "another tenant": (claim("tenant", "beta"), {(None, "tenant"), (16, "index")}),
    "another format": (claim("format", "aureus-pack/v2"), {(None, "manifest")}),
    "a position that is none": (claim("withheld", [0]), {(None, "manifest")}),
    "a size without end": (each(claim("checkpoint", "size", 2**53 - 1), claim("range", "until", 15)), {(None, "checkpoint")}),
    "a range that is turned around": (claim("range", "after", 14), {(None, "manifest")}),
    "a predicate with a member more": (claim("surplus", 1), {(None, "manifest")}),
    "a key left out": (each(without("keys.tsv", 3), claim("counts", "keys", 2)), {(None, "missing"), (9, "key")}),
    "a tile that is another": (put("log/tile/0/000.p/17", bytes(17 * 32)), {(None, "tree"), (9, "tree")}),
    "a tile that is shorter": (put("log/tile/0/000.p/17", bytes(16 * 32)), {(None, "tree"), (3, "tree")}),
    "a member with another name": (put("extra.txt", b"hello"), {(None, "archive")}),
    "members in another order": (reordered, {(None, "archive")}),
    "entries that are not all there": (put("entries/000002.tsv", b""), {(None, "archive")}),
    "an artifact that is another": (put(f"artifacts/{'0' * 64}", b"x"), {(None, "archive")}),
    "another value for a field": (field(0, disclosure=disclosure("c2FsdA", "contact", "Jana")[0]), {(None, "disclosure")}),
    "a field of another name": (field(0, name="phone"), {(None, "disclosure")}),
    "a field of another event": (field(0, position=7), {(None, "disclosure")}),
    "a digest that nobody signed": (field(1, digest=OPEN_DIGEST[::-1]), {(None, "disclosure")}),
    "a digest twice": (field(1, digest=OPEN_DIGEST, position=9), {(None, "disclosure")}),
    "an erasure without a certificate": (field(2, certificate=None), {(None, "disclosure")}),
    "an erasure before there was anything": (field(2, certificate=13), {(None, "disclosure")}),
    "a state that is none": (field(1, state="lost"), {(None, "disclosure")}),
    "fields that are not canonical": (put("disclosures.jsonl", b'{"a": 1}\n'), {(None, "disclosure")}),
}


@pytest.mark.parametrize(("lie", "said"), LIES.values(), ids=LIES)
def test_a_lie_that_is_signed_is_found(lie: Callable[[Pack], Any], said: set[tuple[int | None, str]], tmp_path: Path) -> None:
    pack = of_orders()
    lie(pack)
    result = verified(pack.write(tmp_path / "pack.zip"))
    assert said <= found(result), result.problems
    assert not result.ok


def test_what_is_missing_is_named_by_its_place_in_its_stream(tmp_path: Path) -> None:
    pack = of_orders()
    without("entries/000000.tsv", 7)(pack)
    (missing,) = verified(pack.write(tmp_path / "pack.zip")).problems
    assert missing.found == "position 7, an event of about:dataset:orders, is missing (version 3 of dataset:orders)"


def test_an_event_that_the_index_left_out_shows_when_it_is_there_for_another_reason(tmp_path: Path) -> None:
    """The operator commits an index without the event at 9, and the event comes in by its actor."""
    log = ledger()
    del log.entries[COMMITTED - 1 :], log.bodies[COMMITTED - 1 :]
    honest = Index.of(log, 15)
    honest.topics["about:dataset:orders"].remove(9)
    honest.commit(15)
    pack = selection(
        log, COMMITTED, (["about:dataset:orders", "actor:usr-ana"], []), (0, 15), selection={"datasets": ["orders"], "actors": ["usr-ana"]}
    )
    pack.predicate["index"]["topics"] = [honest.standing(topic) for topic in ("about:dataset:orders", "actor:usr-ana")]
    without("index/topics/000000.tsv", 9)(pack)
    assert found(verified(pack.write(tmp_path / "pack.zip"))) == {(9, "index")}


def test_a_range_that_nobody_could_count_is_refused_in_no_time(tmp_path: Path) -> None:
    pack = everything(ledger())
    for place in (("checkpoint", "size"), ("range", "until")):
        claim(*place, 2**52)(pack)
    result = verified(pack.write(tmp_path / "pack.zip"))
    assert (None, "checkpoint") in found(result)
    assert (18, "missing") in found(result)


def test_everything_with_a_hole(tmp_path: Path) -> None:
    pack = everything(ledger())
    without("entries/000000.tsv", 9)(pack)
    (missing,) = verified(pack.write(tmp_path / "pack.zip")).problems
    assert (missing.position, missing.check) == (9, "missing")
    assert "position 9 is missing (version 4 of dataset:orders" in missing.found


SIGNERS: Final = {"the log key": LOG, "the root key": ROOT, "a stranger": OTHER}


@pytest.mark.parametrize("by", SIGNERS.values(), ids=SIGNERS)
def test_a_manifest_is_signed_by_the_service_key(by: Key, tmp_path: Path) -> None:
    assert found(verified(of_orders().write(tmp_path / "pack.zip", by))) == {(None, "manifest")}


def test_a_pack_is_believed_under_the_root_key_that_is_trusted(tmp_path: Path) -> None:
    path = of_orders().write(tmp_path / "pack.zip")
    assert (1, "key") in found(verified(path, Trust(root_keys=(OTHER.id,))))
    assert any("root key" in warning for warning in verified(path, Trust()).warnings)


def test_a_pack_needs_the_witnesses_that_are_required(tmp_path: Path) -> None:
    log, witness = ledger(), Key(30)
    pack = of_orders(log)
    trust = Trust(TRUST.ledger, TRUST.root_keys, (VerifierKey("w.example", WITNESS, witness.public),), 1)
    assert found(verified(pack.write(tmp_path / "pack.zip"), trust)) == {(None, "witness")}
    pack.members["log/checkpoint"] = log.checkpoint(witnesses={"w.example": witness})
    result = verified(pack.write(tmp_path / "pack.zip"), trust)
    assert [(one.witness, one.at) for one in result.cosigned] == [("w.example", "2026-03-03T14:00:00Z")]
    assert (result.problems, result.warnings) == ([], [])


# -- whoever holds nothing but the file


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"PK\5\6" + bytes(18)], ids=repr)
def test_what_is_no_pack_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pack.zip").write_bytes(content)
    with pytest.raises(NotAPack):
        verified(tmp_path / "pack.zip")


def test_a_member_stands_once_and_under_a_name_that_leads_nowhere(tmp_path: Path) -> None:
    members = {"manifest.json": b"{}"}
    for name in ("../../etc/passwd", "/etc/passwd", "a//b", "a\\b", ".hidden", "C:evil"):
        write_zip(tmp_path / "pack.zip", {name: b"x", **members})
        assert [problem.check for problem in verified(tmp_path / "pack.zip").problems] == ["archive"]
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    write_zip(one, {"manifest.json": b"{}", "nanifest.json": b"{}"})
    other.write_bytes(one.read_bytes().replace(b"nanifest", b"manifest"))
    (problem,) = verified(other).problems
    assert "stands twice" in problem.found


small: Final = ByHand.founded()
small.append("budgets.budget_closed", {"budget_id": "lake"})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_a_pack_is_taken_and_none_is_too_much(tmp_path: Path, data: st.DataObject) -> None:
    """Bits flipped, bytes cut out, put in, or moved: it is refused, or found wanting with a place, and never fails to answer."""
    path = tmp_path / "pack.zip"
    whole = everything(small).write(path).read_bytes()
    at, end = sorted((data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole)))))
    part = data.draw(st.binary(max_size=8) | st.sampled_from([whole[at:end] * 2, whole[end:], bytes(end - at), whole[:64]]))
    flip = bytearray(whole)
    flip[min(at, len(flip) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    changed = data.draw(st.sampled_from([bytes(flip), whole[:at] + part + whole[end:], whole[:at], whole + part]))
    if changed == whole:
        return
    path.write_bytes(changed)
    try:
        result = verified(path)
    except NotAPack:
        return
    assert not result.ok
    assert all(problem.where or problem.position or problem.check in ("manifest", "checkpoint") for problem in result.problems)
    json.dumps(result.as_json())
    assert result.sentences()
