"""The keystore: keys are made once, all or none, and refused when anybody else could read or replace them."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from infra.keystore import ROLES, FileKeystore, KeystoreError, key_id, verify

MESSAGE = b"a governed fact"


def test_keys_are_made_at_the_first_start_and_read_at_the_next(tmp_path: Path) -> None:
    made = FileKeystore.open(tmp_path / "keys")
    assert FileKeystore.open(tmp_path / "keys") == made
    assert len({getattr(made, role).public for role in ROLES}) == len(ROLES)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_a_signature_verifies_by_the_public_key_alone(tmp_path: Path) -> None:
    signer = FileKeystore.open(tmp_path / "keys").log
    signature = signer.sign(MESSAGE)
    assert len(signature) == 64
    VerifyKey(signer.public).verify(MESSAGE, signature)
    assert verify(signer.public, MESSAGE, signature)
    assert not verify(signer.public, MESSAGE + b"!", signature)
    assert not verify(signer.public, MESSAGE, signature[:-1])
    assert not verify(bytes(32), MESSAGE, signature)


def test_the_key_id_covers_algorithm_and_public_key(tmp_path: Path) -> None:
    signer = FileKeystore.open(tmp_path / "keys").root
    assert signer.key_id == key_id(signer.public) == hashlib.sha256(b"ed25519\n" + signer.public).hexdigest()


def test_no_secret_is_printed(tmp_path: Path) -> None:
    keys = FileKeystore.open(tmp_path / "keys")
    assert keys.root.seed.hex() not in repr(keys)
    assert repr(keys.root.secret) not in repr(keys)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    FileKeystore.open(tmp_path / "keys")
    (tmp_path / "keys" / "log.key").chmod(mode)
    with pytest.raises(KeystoreError, match="open to other accounts") as refused:
        FileKeystore.open(tmp_path / "keys")
    assert refused.value.field == "keys.log"
    assert "chmod 0600" in refused.value.remedy


def test_a_key_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    FileKeystore.open(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(KeystoreError, match="open to other accounts"):
        FileKeystore.open(tmp_path / "keys")


def test_a_key_of_another_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileKeystore.open(tmp_path / "keys")
    owner = os.geteuid()
    monkeypatch.setattr("infra.keystore.os.geteuid", lambda: owner + 1)
    with pytest.raises(KeystoreError, match=f"belongs to user id {owner}"):
        FileKeystore.open(tmp_path / "keys")


def test_a_link_in_the_place_of_a_key_is_refused(tmp_path: Path) -> None:
    FileKeystore.open(tmp_path / "keys")
    (tmp_path / "keys" / "log.key").rename(tmp_path / "log.key")
    (tmp_path / "keys" / "log.key").symlink_to(tmp_path / "log.key")
    with pytest.raises(KeystoreError, match="neither a plain file"):
        FileKeystore.open(tmp_path / "keys")


def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    FileKeystore.open(tmp_path / "keys")
    (tmp_path / "keys" / "log.key").unlink()
    with pytest.raises(KeystoreError, match="missing") as refused:
        FileKeystore.open(tmp_path / "keys")
    assert "backup" in refused.value.remedy
    assert not (tmp_path / "keys" / "log.key").exists()


def test_a_half_written_key_file_does_not_count(tmp_path: Path) -> None:
    FileKeystore.open(tmp_path / "keys")
    path = tmp_path / "keys" / "service.key"
    path.write_text(path.read_text()[:100])
    with pytest.raises(KeystoreError, match="not a whole key file"):
        FileKeystore.open(tmp_path / "keys")


@pytest.mark.parametrize(("member", "value"), [("role", "root"), ("public", "00" * 32), ("format", "other/v1"), ("algorithm", "rsa")])
def test_a_key_file_that_contradicts_itself_is_refused(tmp_path: Path, member: str, value: str) -> None:
    FileKeystore.open(tmp_path / "keys")
    path = tmp_path / "keys" / "service.key"
    path.write_text(json.dumps({**json.loads(path.read_text()), member: value}))
    with pytest.raises(KeystoreError, match="does not hold"):
        FileKeystore.open(tmp_path / "keys")


def test_a_start_that_fails_half_way_leaves_no_keys(tmp_path: Path) -> None:
    seeds = iter([b"1" * 32, b"2" * 32])

    def seed() -> bytes:
        try:
            return next(seeds)
        except StopIteration:
            raise OSError(28, "No space left on device") from None

    with pytest.raises(KeystoreError, match="No space left"):
        FileKeystore.open(tmp_path / "keys", seed=seed)
    assert list(tmp_path.iterdir()) == []
    FileKeystore.open(tmp_path / "keys")
