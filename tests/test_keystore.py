"""The keystore: made once, refused when others could read it, and whole at every moment of a rotation or of the root's leaving."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from infra.keystore import ROLES, FileKeystore, KeystoreError, bring_root_online, key_id, read_key, take_root_offline, verify

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
    assert keys.vault.seed.hex() not in repr(keys)
    assert repr(keys.vault.secret) not in repr(keys)


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


@pytest.mark.parametrize(
    ("member", "value"), [("role", "root"), ("public", "00" * 32), ("format", "other/v1"), ("algorithm", "rsa"), ("key_id", "0" * 64)]
)
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


# -- killed at any step


class Killed(BaseException):
    """What a kill -9 looks like from within: nothing after it happens."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the process die at its n-th change of the disk from now on: instead of it, and for fsync after it."""
    steps = {name: getattr(os, name) for name in ("open", "link", "rename", "replace", "unlink", "mkdir", "fsync")}

    def die_at(last: int) -> None:
        numbers = count(1)

        def dies(name: str) -> Callable[..., object]:
            def step(*args: object, **options: object) -> object:
                if name == "open" and not int(str(args[1])) & os.O_CREAT:
                    return steps[name](*args, **options)
                if next(numbers) >= last:
                    raise Killed
                return steps[name](*args, **options)

            return step

        for name in steps:
            monkeypatch.setattr(os, name, dies(name))

    def revive_or_die(last: int) -> None:
        monkeypatch.undo()
        if last:
            die_at(last)

    return revive_or_die


def deaths(dying: Callable[[int], None], prepared: Callable[[], Path], act: Callable[[Path], object]) -> Iterator[tuple[Path, bool]]:
    """(a home in which `act` was killed one step later than in the one before, whether it was); the last one was not."""
    for step in count(1):
        home = prepared()
        dying(step)
        try:
            act(home)
        except Killed:
            killed = True
        else:
            killed = False
        finally:
            dying(0)
        yield home, killed
        if not killed:
            assert step > 3, "there was next to nothing to be killed at"
            return


@pytest.fixture
def homes(tmp_path: Path) -> Callable[[], Path]:
    """Fresh copies of one keystore."""
    FileKeystore.open(tmp_path / "master")
    numbers = count(1)

    def copied() -> Path:
        return Path(shutil.copytree(tmp_path / "master", tmp_path / f"keys-{next(numbers)}"))

    return copied


def test_a_prepared_key_survives_any_death_and_signs_nothing_before_its_time(
    homes: Callable[[], Path], dying: Callable[[int], None]
) -> None:
    first = FileKeystore.open(homes())
    for home, _ in deaths(dying, homes, lambda home: FileKeystore.open(home).prepare("service")):
        keys = FileKeystore.open(home)
        assert keys.service == first.service
        prepared = keys.prepare("service")
        assert prepared.key_id != first.service.key_id
        assert FileKeystore.open(home).prepare("service") == prepared
        assert keys.find(prepared.key_id) == prepared
        assert {path.stat().st_mode & 0o777 for path in home.glob("*.key")} == {0o600}


def test_a_rotation_that_was_recorded_is_carried_out_after_any_death(homes: Callable[[], Path], dying: Callable[[int], None]) -> None:
    first = FileKeystore.open(homes())

    def prepared() -> Path:
        home = homes()
        FileKeystore.open(home).prepare("service")
        return home

    def settled(home: Path) -> FileKeystore:
        keys, prepared = FileKeystore.open(home), home / "service.next.key"
        active = read_key(prepared if prepared.exists() else home / "service.key", "service")
        keys.settle({"log": keys.log.key_id, "service": active.key_id})
        return keys

    for home, _ in deaths(dying, prepared, settled):
        assert FileKeystore.open(home).service.key_id, "killed or not, it opens"
        keys = settled(home)
        assert keys.service.key_id != first.service.key_id
        assert FileKeystore.open(home) == keys
        assert not (home / "service.next.key").exists()
        kept = home / "old" / f"service-{first.service.key_id[:16]}.key"
        assert read_key(kept, "service") == first.service
        assert [path.name for path in (home / "old").iterdir()] == [kept.name]


def test_a_prepared_key_that_the_ledger_does_not_know_is_left_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = FileKeystore.open(tmp_path / "keys")
    prepared = keys.prepare("log")
    with caplog.at_level(logging.WARNING):
        keys.settle({"log": keys.log.key_id, "service": keys.service.key_id})
    assert "log.next.key waits for its rotation" in caplog.text
    assert keys.prepare("log") == prepared


def test_a_prepared_key_is_not_offered_twice(tmp_path: Path) -> None:
    keys = FileKeystore.open(tmp_path / "keys")
    prepared = keys.prepare("log")
    with pytest.raises(KeystoreError, match="knows already") as refused:
        keys.prepare("log", known={prepared.key_id})
    assert "Start Aureus again" in refused.value.remedy


def test_every_process_on_one_home_follows_a_rotation(tmp_path: Path) -> None:
    here, there = (FileKeystore.open(tmp_path / "keys") for _ in range(2))
    old, late = here.service, FileKeystore.open(tmp_path / "keys")
    new = here.prepare("service")
    active = {"log": here.log.key_id, "service": new.key_id}
    here.settle(active)
    assert there.find(new.key_id) == new
    there.settle(active)
    assert here.service == there.service == new
    # One that has not heard of it yet changes nothing of what the others did.
    late.settle({"log": late.log.key_id, "service": old.key_id})
    assert FileKeystore.open(tmp_path / "keys").service == new


def test_a_key_that_the_ledger_names_and_nobody_has_is_refused(tmp_path: Path) -> None:
    keys = FileKeystore.open(tmp_path / "keys")
    with pytest.raises(KeystoreError, match="the key 0000000000000000, which signs now, is not in") as refused:
        keys.settle({"service": "0" * 64})
    assert refused.value.field == "keys.service"
    with pytest.raises(LookupError, match="The key 0000000000000000 is not in"):
        keys.find("0" * 64)


def test_a_key_that_cannot_be_read_is_said_to_whoever_looks_for_it(tmp_path: Path) -> None:
    keys = FileKeystore.open(tmp_path / "keys")
    (tmp_path / "keys" / "log.key").chmod(0o644)
    with pytest.raises(LookupError, match=r"keys\.log: .* open to other accounts"):
        keys.find("0" * 64)


# -- the root goes offline


def test_the_root_goes_offline_and_comes_back(tmp_path: Path) -> None:
    root = FileKeystore.open(tmp_path / "keys").root
    away = tmp_path / "stick" / "root.key"
    away.parent.mkdir()
    assert take_root_offline(tmp_path / "keys", away) == root
    assert away.stat().st_mode & 0o777 == 0o600
    assert read_key(away, "root") == root
    keys = FileKeystore.open(tmp_path / "keys")
    assert (keys.root.key_id, keys.root.public, keys.root.custody) == (root.key_id, root.public, "client")
    with pytest.raises(KeystoreError, match="is not on this server") as refused:
        keys.root.sign(MESSAGE)
    assert "aureus keys authorise" in refused.value.remedy
    with pytest.raises(KeystoreError, match="offline"):
        keys.prepare("root")
    with pytest.raises(KeystoreError, match="offline already"):
        take_root_offline(tmp_path / "keys", away)
    secret = json.loads(away.read_text())["seed"]
    assert [path.name for path in (tmp_path / "keys").rglob("*") if path.is_file() and secret in path.read_text()] == []
    bring_root_online(tmp_path / "keys", away)
    assert FileKeystore.open(tmp_path / "keys").root == root


def test_the_root_is_never_nowhere(homes: Callable[[], Path], dying: Callable[[int], None]) -> None:
    root = FileKeystore.open(homes()).root

    def away(home: Path) -> Path:
        return home.with_suffix(".root")

    for home, _ in deaths(dying, homes, lambda home: take_root_offline(home, away(home))):
        assert FileKeystore.open(home).root.key_id == root.key_id
        if (home / "root.key").exists():
            assert take_root_offline(home, away(home)) == root
        assert read_key(away(home), "root") == root
        with pytest.raises(KeystoreError):
            FileKeystore.open(home).root.sign(MESSAGE)

    def offline() -> Path:
        home = homes()
        take_root_offline(home, away(home))
        return home

    for home, _ in deaths(dying, offline, lambda home: bring_root_online(home, away(home))):
        assert FileKeystore.open(home).root.key_id == root.key_id
        if (home / "root.pub.json").exists():
            bring_root_online(home, away(home))
        assert FileKeystore.open(home).root == root


def test_the_root_is_not_taken_where_it_would_not_be_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "keys"
    FileKeystore.open(home)
    FileKeystore.open(tmp_path / "other")
    for to, rule in (
        (home / "away.key", "in the keystore itself"),
        (tmp_path / "other" / "root.key", "holds another key"),
        (tmp_path / "nowhere" / "root.key", "No such file or directory"),
    ):
        with pytest.raises(KeystoreError, match=rule):
            take_root_offline(home, to)
    # A file system that knows no modes, as on many a stick: the key does not stay there.
    monkeypatch.setattr("infra.key_files.os.fsync", lambda handle: os.fchmod(handle, 0o755))
    with pytest.raises(KeystoreError, match="open to other accounts"):
        take_root_offline(home, tmp_path / "root.key")
    assert not (tmp_path / "root.key").exists()
    assert sorted(path.name for path in home.iterdir()) == sorted(f"{role}.key" for role in ROLES)


def test_another_key_does_not_come_back_as_the_root(tmp_path: Path) -> None:
    FileKeystore.open(tmp_path / "keys")
    FileKeystore.open(tmp_path / "other")
    with pytest.raises(KeystoreError, match="not offline"):
        bring_root_online(tmp_path / "keys", tmp_path / "other" / "root.key")
    take_root_offline(tmp_path / "keys", tmp_path / "root.key")
    with pytest.raises(KeystoreError, match="was taken away"):
        bring_root_online(tmp_path / "keys", tmp_path / "other" / "root.key")


def test_a_public_part_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    FileKeystore.open(tmp_path / "keys")
    take_root_offline(tmp_path / "keys", tmp_path / "root.key")
    path = tmp_path / "keys" / "root.pub.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "public": "00" * 32}))
    with pytest.raises(KeystoreError, match="does not hold"):
        FileKeystore.open(tmp_path / "keys")
    path.write_text("[]")
    with pytest.raises(KeystoreError, match="not a whole key file"):
        FileKeystore.open(tmp_path / "keys")
