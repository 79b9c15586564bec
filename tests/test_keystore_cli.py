"""`aureus keys` without a server: key files, the root that goes offline and authorises from there, keys of one's own, and a token."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.cli.failures import ExitCode
from api.cli.main import app
from domain.keys import KeyAdded
from infra.key_files import FileSigner, verify, write_key
from infra.keystore import ROLES, FileKeystore, read_key
from tests.support.softhsm import LABEL, MODULE, PIN, SoftHsm

LEDGER = "ledger.example.org/main"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUREUS_HOME", str(tmp_path / "home"))
    FileKeystore.open(tmp_path / "home" / "keys")
    return tmp_path / "home"


def aureus(*arguments: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == ExitCode.OK, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def requested(tmp_path: Path, role: str = "actor", holder: str = "usr-ana") -> Path:
    """What `aureus keys new` prints, kept in a file."""
    result = aureus("keys", "new", "--role", role, "--holder", holder, "--ledger", LEDGER, "-o", tmp_path / f"{holder}.key")
    request = tmp_path / f"{holder}.json"
    request.write_text(json.dumps(document(result)))
    return request


def test_the_files_are_listed_without_their_secrets(home: Path) -> None:
    keys = FileKeystore.open(home / "keys")
    prepared = keys.prepare("log")
    old = keys.service.key_id
    keys.settle({"service": keys.prepare("service").key_id})
    result = aureus("--json", "keys", "list-files")
    listed = {(row["role"], row["state"]): row["key_id"] for row in document(result)["items"]}
    assert listed[("log", "prepared")] == prepared.key_id
    assert (listed[("service", "in place")], listed[("service", "rotated out")]) == (keys.service.key_id, old)
    assert {role for role, state in listed if state == "in place"} == set(ROLES)
    for path in (home / "keys").rglob("*.key"):
        assert json.loads(path.read_text())["seed"] not in result.output


def test_there_is_nothing_to_list_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUREUS_HOME", str(tmp_path / "nothing"))
    result = aureus("keys", "list-files")
    assert result.exit_code == ExitCode.USAGE
    assert "is missing" in result.stderr
    assert not (tmp_path / "nothing").exists()


def test_the_root_leaves_authorises_from_elsewhere_and_comes_back(home: Path, tmp_path: Path) -> None:
    root, away = FileKeystore.open(home / "keys").root, tmp_path / "root.key"
    result = aureus("keys", "offline-root", "--to", away)
    assert f"The root key {root.key_id[:16]} was moved into {away}" in result.stdout
    assert "in memory until it is started again" in result.stderr
    listed = document(aureus("--json", "keys", "list-files"))["items"]
    assert [row["state"] for row in listed if row["role"] == "root"] == ["offline"]

    request = requested(tmp_path)
    authorised = document(aureus("keys", "authorise", request, "--key", away))
    asked = json.loads(request.read_text())
    assert authorised == {**asked, "authorised_by": root.key_id, "authorisation": authorised["authorisation"]}
    statement = KeyAdded.authorisation_statement(LEDGER, "actor", asked["key_id"], "client", "usr-ana")
    assert verify(root.public, statement, base64.b64decode(authorised["authorisation"]))

    assert aureus("keys", "online-root", away).exit_code == ExitCode.OK
    assert FileKeystore.open(home / "keys").root == root
    again = aureus("keys", "online-root", away)
    assert again.exit_code == ExitCode.USAGE
    assert "not offline" in again.stderr


@pytest.mark.parametrize(("role", "holder"), [("actor", "usr-ana"), ("witness", "witness.example.org")])
def test_a_key_of_one_s_own_comes_with_the_proof_that_one_has_it(tmp_path: Path, role: str, holder: str) -> None:
    request = json.loads(requested(tmp_path, role, holder).read_text())
    file = tmp_path / f"{holder}.key"
    signer = read_key(file, role)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (signer.holder, signer.custody) == (holder, "client")
    assert {name: request[name] for name in ("ledger", "role", "holder", "custody", "key_id")} == {
        "ledger": LEDGER,
        "role": role,
        "holder": holder,
        "custody": "client",
        "key_id": signer.key_id,
    }
    assert base64.b64decode(request["public"]) == signer.public
    assert verify(signer.public, KeyAdded.statement(LEDGER, role, signer.key_id), base64.b64decode(request["proof"]))
    assert json.loads(file.read_text())["seed"] not in json.dumps(request)


def test_a_key_file_is_never_written_over(tmp_path: Path) -> None:
    requested(tmp_path)
    before = (tmp_path / "usr-ana.key").read_bytes()
    result = aureus("keys", "new", "--holder", "usr-ana", "--ledger", LEDGER, "-o", tmp_path / "usr-ana.key")
    assert result.exit_code == ExitCode.USAGE
    assert "File exists" in result.stderr
    assert (tmp_path / "usr-ana.key").read_bytes() == before


def test_a_new_root_key_is_nobody_s(tmp_path: Path) -> None:
    result = aureus("keys", "new", "--role", "root", "-o", tmp_path / "root.key")
    assert (result.exit_code, result.stdout) == (ExitCode.OK, "")
    assert "aureus keys rotate" in result.stderr
    assert read_key(tmp_path / "root.key", "root").custody == "client"
    for arguments in (("--role", "root", "--holder", "usr-ana"), ("--role", "actor")):
        assert aureus("keys", "new", *arguments, "-o", tmp_path / "no.key").exit_code == ExitCode.USAGE
    assert not (tmp_path / "no.key").exists()


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"ledger": "ledger.example.org/other"}, "its proof is not a signature"),
        ({"proof": base64.b64encode(bytes(64)).decode()}, "its proof is not a signature"),
        ({"role": "witness"}, "its proof is not a signature"),
        ({"role": "service"}, "the ledger's own keys are rotated"),
        ({"key_id": "0" * 64}, "its key id is not that of its public key"),
        ({"holder": "usr-ana\nusr-eve"}, "it is not what `aureus keys new` prints"),
        ({"holder": None}, "it is not what `aureus keys new` prints"),
        ({"public": "!"}, "it is not what `aureus keys new` prints"),
    ],
)
def test_the_root_signs_for_no_key_that_did_not_prove_itself(home: Path, tmp_path: Path, changed: dict[str, Any], rule: str) -> None:
    request = json.loads(requested(tmp_path).read_text())
    result = aureus("keys", "authorise", "-", "--key", home / "keys" / "root.key", given=json.dumps({**request, **changed}))
    assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
    assert rule in " ".join(result.stderr.replace("│", " ").split())


def test_only_a_root_key_authorises(home: Path, tmp_path: Path) -> None:
    result = aureus("keys", "authorise", requested(tmp_path), "--key", home / "keys" / "log.key")
    assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
    assert "does not hold a aureus-key/v1 key of role root" in result.stderr
    write_key(tmp_path / "open.key", FileSigner.from_seed("root", bytes(32), "2026-01-01"))
    (tmp_path / "open.key").chmod(0o644)
    result = aureus("keys", "authorise", tmp_path / "usr-ana.json", "--key", tmp_path / "open.key")
    assert "open to other accounts" in result.stderr


def test_keys_in_a_token_are_made_listed_and_authorise(softhsm: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = requested(tmp_path)
    nowhere = aureus("keys", "pkcs11", "list")
    assert nowhere.exit_code == ExitCode.USAGE
    assert "AUREUS_PKCS11_MODULE" in nowhere.stderr
    for name, value in (("HOME", str(tmp_path / "home")), ("PKCS11_MODULE", str(MODULE)), ("PKCS11_TOKEN", LABEL), ("PKCS11_PIN", PIN)):
        monkeypatch.setenv(f"AUREUS_{name}", value)
    without = aureus("keys", "authorise", request)
    assert (without.exit_code, without.stdout) == (ExitCode.USAGE, "")
    assert "it has no root key" in without.stderr
    made = [document(aureus("--json", "keys", "pkcs11", "generate", "--role", role)) for role in ("root", "log")]
    listed = document(aureus("--json", "keys", "pkcs11", "list"))["items"]
    assert listed == made
    assert [row["label"] for row in listed] == ["aureus-root", "aureus-log"]
    authorised = document(aureus("keys", "authorise", request))
    statement = KeyAdded.authorisation_statement(LEDGER, "actor", authorised["key_id"], "client", "usr-ana")
    assert authorised["authorised_by"] == made[0]["key_id"]
    assert verify(bytes.fromhex(made[0]["public"]), statement, base64.b64decode(authorised["authorisation"]))
    softhsm.let_go()
    monkeypatch.setenv("AUREUS_PKCS11_PIN", "1234")
    refused = aureus("keys", "pkcs11", "generate", "--role", "log")
    assert refused.exit_code == ExitCode.USAGE
    assert "refuses the PIN" in refused.stderr
