"""A second writer of packs, straight from docs/packs.md: it shares no code with the exporter, so what both write is the format."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infra.verifier.topics import TopicFold
from tests.support.by_hand import SERVICE, ByHand, Key, b64, canonical, inclusion, pae, sha256, tree_root

TYPE: Final = b"application/vnd.in-toto+json"
NOTHING: Final = bytes(32)


@dataclass
class Pack:
    """A pack before it is sealed: everything can still be put otherwise."""

    log: ByHand
    members: dict[str, bytes] = field(default_factory=dict)
    predicate: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path, by: Key = SERVICE, change: Callable[[dict[str, Any]], None] = lambda _statement: None) -> Path:
        """Lists and signs what there is, and writes the file."""
        subjects = [{"digest": {"sha256": sha256(content).hex()}, "name": name} for name, content in self.members.items()]
        types = {"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://aureus.example/export/v1"}
        statement = {**types, "predicate": self.predicate, "subject": subjects}
        change(statement)
        payload = canonical(statement)
        signature = {"keyid": by.id, "sig": b64(by.sign(pae(TYPE, payload)))}
        envelope = {"payload": b64(payload), "payloadType": TYPE.decode(), "signatures": [signature]}
        write_zip(path, {**self.members, "manifest.json": canonical(envelope)})
        return path

    def lines(self, name: str, positions: Iterable[int]) -> None:
        self.members[name] = b"".join(b"%d\t%b\n" % (position, self.log.entries[position - 1]) for position in positions)


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, content)


@dataclass(frozen=True)
class Index:
    """Every topic of a tenant's first events: positions by topic, in the order of the topics' bytes."""

    log: ByHand
    topics: dict[str, list[int]]

    @classmethod
    def of(cls, log: ByHand, size: int, tenant: str = "acme") -> Index:
        fold, found = TopicFold(), dict[str, list[int]]()
        for position, body in enumerate(log.bodies[:size], 1):
            for topic in fold.topics(body) if body["tenant"] == tenant else ():
                found.setdefault(topic, []).append(position)
        return cls(log, dict(sorted(found.items(), key=lambda one: one[0].encode())))

    def chain(self, topic: str) -> str:
        value, leaves = NOTHING, self.log.leaves
        for position in self.topics[topic]:
            value = sha256(value, position.to_bytes(8), leaves[position - 1])
        return value.hex()

    def leaves(self) -> list[bytes]:
        return [sha256(b"\0", canonical([topic, len(positions), self.chain(topic)])) for topic, positions in self.topics.items()]

    def commit(self, size: int, tenant: str = "acme") -> int:
        """Appends the event that commits to it; returns its position."""
        keys = [position for position, body in enumerate(self.log.bodies[:size], 1) if body["stream"] == "keys:ledger"]
        root, last = tree_root(self.leaves()).hex(), self.log.leaves[keys[-1] - 1].hex()
        data = {"size": size, "topics": len(self.topics), "root": root, "rules": 1, "keys_version": len(keys), "keys_leaf": last}
        return self.log.append("exports.index_committed", data, stream=f"index:{tenant}", tenant=tenant, actor="svc-reactions")

    def standing(self, topic: str) -> dict[str, Any]:
        names = list(self.topics)
        if topic in self.topics:
            index = names.index(topic)
            path = [value.hex() for value in inclusion(index, self.leaves())]
            return {"topic": topic, "count": len(self.topics[topic]), "chain": self.chain(topic), "index": index, "path": path}
        before = [name for name in names if name.encode() < topic.encode()]
        neighbours = {"before": before[-1:], "after": names[len(before) : len(before) + 1]}
        return {"topic": topic, "absent": True} | {side: self.standing(found[0]) if found else None for side, found in neighbours.items()}


def selection(log: ByHand, committed: int, topics: tuple[list[str], list[str]], span: tuple[int, int], **said: Any) -> Pack:
    """The pack of a selection: `topics` are those it is made of and those it is within, `span` its range (after, until]."""
    size = log.bodies[committed - 1]["data"]["size"]
    index, (base, within), (after, until) = Index.of(log, size), topics, span
    rows = {topic: index.topics.get(topic, []) for topic in [*base, *within]}
    chosen = {position for topic in base for position in rows[topic]}
    selected = sorted(chosen & {position for topic in within for position in rows[topic]} if within else chosen)
    before = [position for position in selected if position <= after][-1:]
    later = [position for position in selected if position > until][:1]
    inside = [position for position in selected if after < position <= until]
    kept_back = [position for position in [*before, *inside, *later] if log.bodies[position - 1]["type"] in said.get("withhold", ())]
    entries = [position for position in [*before, *inside, *later] if position not in kept_back]
    pack = _begun(log, entries)
    pack.lines("index/committed.tsv", [committed])
    for number, positions in enumerate(rows.values()):
        lines = (f"{position}\t{log.leaves[position - 1].hex()}\n" for position in positions)
        pack.members[f"index/topics/{number:06d}.tsv"] = "".join(lines).encode()
    if said.get("certificates"):
        pack.lines("certificates.tsv", said["certificates"])
    pack.members["disclosures.jsonl"] = b"".join(canonical(line) + b"\n" for line in said.get("fields", ()))
    shown = [index.standing(topic) for topic in rows]
    pack.predicate = _predicate(pack, said.get("selection", {}), span) | {
        "scope": "selection",
        **({"accounted_after": said["accounted_after"]} if "accounted_after" in said else {}),
        "withheld": kept_back,
        "fences": {"before": before[0] if before else None, "after": later[0] if later else None},
        "index": {"position": committed, "size": size, "topics_count": len(index.topics), "topics": shown},
    }
    outside = {"other_jurisdiction": len(chosen) - len(selected), "outside_period": len(selected) - len(inside)}
    pack.predicate["counts"] |= {"entries": len(entries), "withheld_entries": len(kept_back), **outside}
    return pack


def everything(log: ByHand, span: tuple[int, int] | None = None, **said: Any) -> Pack:
    """The pack of all events of a range."""
    size = len(log.entries)
    after, until = span or (0, size)
    fences = {"before": after or None, "after": until + 1 if until < size else None}
    entries = [at for at in range(max(after, 1), min(until + 1, size) + 1) if log.bodies[at - 1]["stream"] != "keys:ledger"]
    pack = _begun(log, entries)
    pack.members["disclosures.jsonl"] = b""
    pack.predicate = _predicate(pack, said.get("selection", {}), (after, until)) | {"scope": "everything", "fences": fences}
    pack.predicate["counts"] |= {"entries": len(entries), "outside_period": size - (until - after)}
    return pack


def _begun(log: ByHand, entries: list[int]) -> Pack:
    """A pack up to its entries: of a log of up to 256 events, so there is one tile."""
    pack = Pack(log, {"README.txt": b"Verify this.\n", "log/checkpoint": log.checkpoint()})
    width = len(log.entries)
    pack.members["log/tile/0/000" + (f".p/{width}" if width < 256 else "")] = b"".join(log.leaves)
    pack.lines("keys.tsv", [position for position, body in enumerate(log.bodies, 1) if body["stream"] == "keys:ledger"])
    if entries:
        pack.lines("entries/000000.tsv", entries)
    return pack


def _predicate(pack: Pack, chosen: dict[str, Any], span: tuple[int, int]) -> dict[str, Any]:
    log, named = pack.log, ("datasets", "agents", "actors", "policies", "jurisdictions")
    nobody: dict[str, Any] = {name: list[str]() for name in named} | {"from": None, "to": None}
    return {
        "format": "aureus-pack/v1",
        "ledger": log.ledger,
        "tenant": "acme",
        "export_id": "exp-1",
        "recipient": "BaFin",
        "created_at": "2026-07-01T09:00:00.000000Z",
        "software": "by hand",
        "scope": "everything",
        "selection": nobody | chosen,
        "range": {"after": span[0], "until": span[1]},
        "profile": {"name": "regulator", "disclose": [], "withhold_types": []},
        "checkpoint": {"size": len(log.entries), "root": b64(tree_root(log.leaves))},
        "counts": {"entries": 0, "keys": pack.members["keys.tsv"].count(b"\n"), "withheld_entries": 0}
        | {"other_jurisdiction": 0, "outside_period": 0},
        "withheld": [],
        "fences": {"before": None, "after": None},
        "index": None,
        "views": [],
    }
