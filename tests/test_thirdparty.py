"""Others check us with their own code: Go's sumdb and transparency-dev the log; securesystemslib, sigstore and OpenSSL who signed it."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import rfc8785
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as SSlibVerificationError
from securesystemslib.signer._key import SSlibKey
from sigstore._internal.rekor.checkpoint import SignedCheckpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore._utils import KeyID
from sigstore.errors import VerificationError
from sigstore_models.common.v1 import PublicKey, PublicKeyDetails

from infra.checkpoint import Checkpoint, verifier_key
from infra.envelope import entry_bytes
from infra.verifier.notes import WITNESS, VerifierKey
from infra.verifier.tree import tile_path, tiles_of
from tests.support.kernel import ADM
from tests.support.packs import AUD, exported, predicate
from tests.support.running import Aureus, running
from tests.support.thirdparty import checks, third_party
from tests.support.trees import grow
from tests.support.witness import WitnessProcess, request

EVENTS: Final = 700
OLDER: Final = (100, 256, 300, 512)
PROVEN: Final = (1, 256, 257, 512, 513, 700)


@dataclass(frozen=True)
class Log:
    """A real ledger as static files, the keys it is checked with, and what was kept of its past."""

    place: Path
    key: str
    witness: str
    older: list[Path]
    inclusion: list[Path]
    consistency: list[Path]
    entries: list[bytes]
    keys: dict[str, bytes]
    """The public key of each role."""
    packs: dict[str, Path]
    """One of everything, and one of what an actor did."""
    fork: Path
    """A checkpoint of another past, signed by the log's own key."""

    @property
    def origin(self) -> str:
        return self.key.partition("+")[0]

    def options(self) -> list[str | Path]:
        named = {"-older": self.older, "-proof": self.inclusion, "-consistency": self.consistency}
        return ["-whole", "-witness", self.witness, *(word for option, files in named.items() for file in files for word in (option, file))]

    def checked(self, place: Path | None = None) -> dict[str, Any]:
        return third_party(place or self.place, self.key, *self.options())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, shared_database_url: str) -> Log:
    return asyncio.run(served(shared_database_url, tmp_path_factory.mktemp("log")))


async def served(dsn: str, folder: Path) -> Log:
    """A server's tiles and proofs, as anybody may fetch them, and a witness's cosignature on its checkpoint."""
    async with running(dsn, folder / "home") as aureus:
        await aureus.know(ADM, AUD)
        ledger, older = aureus.services.ledger, {}
        for size in (*OLDER, EVENTS):
            await grow(ledger, size, per_commit=size)
            assert ledger.head.size == size
            older[size] = kept(folder / f"checkpoint-{size}", ledger.head.note)
        signers = ledger.sealer.signers
        key = verifier_key(ledger.name, signers.log.public)
        witness = WitnessProcess(folder / "witness", [key], "--name", "witness.example")
        kept(folder / "log" / "checkpoint", ledger.head.note + witness.add(request(0, [], ledger.head.note)).content)
        witness.stop()
        for level, index, width in tiles_of(EVENTS):
            paths = [tile_path(level, index, width), *([tile_path("entries", index, width)] if level == 0 else [])]
            for path in paths:
                kept(folder / "log" / path, (await aureus.get(f"/v1/log/{path}", ADM)).raise_for_status().content)
        inclusion = [(await ask(aureus, "inclusion", "text/plain", position=position)).content for position in PROVEN]
        consistency = [(await ask(aureus, "consistency", "*/*", **{"from": size})).content for size in OLDER]
        return Log(
            folder / "log",
            key,
            witness.key,
            list(older.values()),
            [kept(folder / f"inclusion-{number}", proof) for number, proof in enumerate(inclusion)],
            [kept(folder / f"consistency-{number}", proof) for number, proof in enumerate(consistency)],
            [entry_bytes(event.body, event.signatures) for event in await ledger.entries(0, EVENTS)],
            {"log": signers.log.public, "service": signers.service.public},
            {
                "everything": await exported(aureus, folder, "everything", everything=True),
                "a selection": await exported(aureus, folder, "selection", selection={"actors": [ADM.actor]}),
            },
            kept(folder / "fork", Checkpoint(ledger.name, 300, sha256(b"another past").digest()).signed(signers.log)),
        )


async def ask(aureus: Aureus, proof: str, accept: str, **parameters: int) -> httpx.Response:
    return (await aureus.http.get(f"/v1/proofs/{proof}", params=parameters, headers={"Accept": accept})).raise_for_status()


def kept(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_go_verifies_the_whole_log(log: Log) -> None:
    result = log.checked()
    assert result["problems"] == []
    assert result == {
        "ok": True,
        "origin": log.origin,
        "size": EVENTS,
        "root": result["root"],
        "cosigned": [{"witness": "witness.example", "at": result["cosigned"][0]["at"]}],
        "tiles": 4,
        "entries": EVENTS,
        "consistent": [*OLDER, EVENTS],
        "proofs": len(PROVEN) + len(OLDER),
        "problems": [],
    }


def changed(name: str, at: int) -> Callable[[Path], None]:
    """One bit of one file."""

    def change(place: Path) -> None:
        data = bytearray((place / name).read_bytes())
        data[at] ^= 1
        (place / name).write_bytes(data)

    return change


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        data = (place / name).read_bytes()
        assert old in data
        (place / name).write_bytes(data.replace(old, new, 1))

    return change


def moved(name: str, to: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / name).rename(place / to)

    return change


def forged(line: int) -> Callable[[Path], None]:
    """One bit of the signature on one line of the checkpoint, counted from its end."""

    def change(place: Path) -> None:
        lines = (place / "checkpoint").read_text().splitlines()
        name, _, encoded = lines[line].rpartition(" ")
        signature = bytearray(base64.b64decode(encoded))
        signature[-1] ^= 1
        lines[line] = f"{name} {base64.b64encode(signature).decode()}"
        (place / "checkpoint").write_text("\n".join(lines) + "\n")

    return change


def exchanged(place: Path) -> None:
    """Two entries of the first bundle change places: every byte is still there."""
    path = place / "tile" / "entries" / "000"
    data = path.read_bytes()
    first = 2 + int.from_bytes(data[:2])
    second = first + 2 + int.from_bytes(data[first : first + 2])
    path.write_bytes(data[first:second] + data[:first] + data[second:])


TAMPERS: Final = {
    "the log's signature": (forged(-2), "checkpoint"),
    "the origin": (replaced("checkpoint", b"aureus.local", b"aureus.lokal"), "checkpoint"),
    "the size": (replaced("checkpoint", b"\n700\n", b"\n699\n"), "checkpoint"),
    "a cosignature": (forged(-1), "cosignature"),
    "a hash of a leaf": (changed("tile/0/001", 77), "tile"),
    "a hash at the right edge": (changed("tile/0/002.p/188", 77), "tile"),
    "a hash above the leaves": (changed("tile/1/000.p/2", 1), "tile"),
    "an entry": (changed("tile/entries/001", 300), "inclusion"),
    "an entry's length": (changed("tile/entries/001", 1), "entry"),
    "entries that changed places": (exchanged, "inclusion"),
    "a tile that is gone": (lambda place: (place / "tile/0/000").unlink(), "tile"),
    "entries that are gone": (lambda place: (place / "tile/entries/000").unlink(), "entry"),
    "a path that is none": (moved("tile/0/001", "tile/0/01"), "tile"),
}


@pytest.mark.parametrize("what", TAMPERS)
def test_go_refuses_a_log_in_which_something_was_changed(log: Log, tmp_path: Path, what: str) -> None:
    change, check = TAMPERS[what]
    shutil.copytree(log.place, tmp_path / "log")
    change(tmp_path / "log")
    result = log.checked(tmp_path / "log")
    assert check in checks(result)


def test_go_refuses_another_past_and_proofs_that_prove_nothing(log: Log, tmp_path: Path) -> None:
    nothing = base64.b64encode(bytes(32)).decode()
    inclusion, consistency = log.inclusion[0].read_text().split("\n"), json.loads(log.consistency[0].read_bytes())
    inclusion[2] = consistency["hashes"][0] = nothing
    bent = kept(tmp_path / "inclusion", "\n".join(inclusion).encode())
    broken = kept(tmp_path / "consistency", json.dumps(consistency).encode())
    stranger = VerifierKey("witness.example", WITNESS, bytes(32)).text()
    refused: dict[str, list[str | Path]] = {
        "consistency": ["-older", log.fork],
        "proof": ["-proof", bent],
        "cosignature": ["-witness", stranger],
    }
    for check, options in refused.items():
        assert checks(third_party(log.place, log.key, *options)) == {check}
    assert checks(third_party(log.place, log.key, "-older", log.older[0], "-consistency", broken)) == {"proof"}
    assert checks(third_party(log.place, verifier_key(log.origin, log.keys["service"]))) == {"checkpoint"}


@pytest.mark.parametrize("what", ["everything", "a selection"])
def test_go_verifies_a_pack(log: Log, tmp_path: Path, what: str) -> None:
    """Straight from the zip: the log's part of it is a C2SP log of its own."""
    pack, claims = log.packs[what], predicate(log.packs[what])
    counts = claims["counts"]
    result = third_party(pack, log.key, "-older", log.older[-1])
    assert result["problems"] == []
    assert (result["origin"], result["size"], result["consistent"]) == (log.origin, claims["checkpoint"]["size"], [EVENTS])
    assert result["root"] == claims["checkpoint"]["root"]
    assert result["entries"] == counts["entries"] + counts["keys"] + (claims["index"] is not None)
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(tmp_path)
    changed("entries/000000.tsv", 200)(tmp_path)
    assert checks(third_party(tmp_path, log.key)) == {"inclusion"}


@pytest.mark.parametrize("what", ["everything", "a selection"])
def test_securesystemslib_verifies_who_signed_a_pack(log: Log, what: str) -> None:
    """As it verifies any in-toto statement in a DSSE envelope; what the statement lists are the members, with their hashes."""
    with zipfile.ZipFile(log.packs[what]) as archive:
        document = json.loads(archive.read("manifest.json"))
        hashes = {name: sha256(archive.read(name)).hexdigest() for name in archive.namelist()[:-1]}
    key_id = sha256(b"ed25519\n" + log.keys["service"]).hexdigest()
    key = SSlibKey(key_id, "ed25519", "ed25519", {"public": log.keys["service"].hex()})
    envelope = Envelope.from_dict(copy.deepcopy(document))
    assert list(envelope.verify([key], 1)) == [key_id]
    statement = json.loads(envelope.payload)
    assert (statement["_type"], statement["predicateType"]) == ("https://in-toto.io/Statement/v1", "https://aureus.example/export/v1")
    assert {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]} == hashes
    document["payload"] = base64.b64encode(envelope.payload.replace(b'"tenant":"acme"', b'"tenant":"acne"')).decode()
    with pytest.raises(SSlibVerificationError):
        Envelope.from_dict(document).verify([key], 1)


def test_sigstore_reads_the_checkpoint_and_verifies_who_signed_it(log: Log) -> None:
    text = (log.place / "checkpoint").read_text()
    checkpoint = SignedCheckpoint.from_text(text)
    said = checkpoint.checkpoint
    assert (said.origin, said.log_size, said.other_content) == (log.origin, EVENTS, [])
    assert said.log_hash == base64.b64decode(log.checked()["root"]).hex()
    assert [signature.name for signature in checkpoint.signed_note.signatures] == [log.origin, "witness.example"]
    keyring = RekorKeyring(
        Keyring([PublicKey(raw_bytes=base64.b64encode(spki(log.keys["log"])), key_details=PublicKeyDetails.PKIX_ED25519)])
    )
    key_id = KeyID(bytes.fromhex(log.key.split("+")[1]))
    checkpoint.signed_note.verify(keyring, key_id)
    for forged in (text.replace("\n700\n", "\n701\n"), text.replace("aureus.local", "aureus.lokal", 1)):
        with pytest.raises(VerificationError):
            SignedCheckpoint.from_text(forged).signed_note.verify(keyring, key_id)


def test_openssl_verifies_the_signature_of_an_event(log: Log, tmp_path: Path) -> None:
    envelope = json.loads(log.entries[-1])
    body, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    (tmp_path / "key.der").write_bytes(spki(log.keys["service"]))
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))

    def verified(payload: bytes) -> bool:
        (tmp_path / "signed").write_bytes(b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload))
        command = "openssl pkeyutl -verify -rawin -pubin -keyform DER -inkey key.der -sigfile signature -in signed"
        return subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert verified(body)
    assert not verified(body.replace(b'"limit_minor":1', b'"limit_minor":2'))


def test_another_encoder_of_rfc_8785_writes_the_bytes_that_were_signed(log: Log) -> None:
    for entry in log.entries:
        envelope = json.loads(entry)
        body = base64.b64decode(envelope["payload"])
        assert rfc8785.dumps(envelope) == entry
        assert rfc8785.dumps(json.loads(body)) == body


def spki(public: bytes) -> bytes:
    """An Ed25519 key as others read one (RFC 8410)."""
    return bytes.fromhex("302a300506032b6570032100") + public
