"""The witness: every rule of its protocol over real HTTP, and what it signed it never takes back, whatever happens to it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from infra.settings import SettingsError
from infra.verifier.notes import VerifierKey, cosigned_at, log_signed, parse_checkpoint, parse_note
from infra.verifier.tree import EMPTY_ROOT
from infra.witness import MAX_EVIDENCE, Witness, WitnessHome, origin_hash
from tests.support.witness import DIES_BEFORE_IT_ANSWERS, TestKey, TestLog, WitnessProcess, request

LOGS = [TestLog(f"log.example/{number}") for number in range(40)]
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WitnessProcess]:
    process = WitnessProcess(tmp_path_factory.mktemp("witness") / "home", [log.verifier for log in LOGS], "--name", "witness.example/w")
    yield process
    assert process.stop() == ""


_fresh = count()


@pytest.fixture
def log() -> TestLog:
    """A log that the witness knows, and has cosigned nothing of."""
    return LOGS[next(_fresh)]


def size_known(answer: httpx.Response) -> int:
    """What a 409 says, byte for byte."""
    assert (answer.status_code, answer.headers["content-type"]) == (409, "text/x.tlog.size")
    assert answer.text == f"{int(answer.text)}\n"
    return int(answer.text)


def cosigned(answer: httpx.Response, log: TestLog, note: bytes, key: VerifierKey) -> bool:
    """Whether an answer is this witness's cosignature on a checkpoint, and one that the checkpoint can carry."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    whole = parse_note(note + answer.content)
    return log_signed(whole, VerifierKey.parse(log.verifier)) and cosigned_at(whole, key) is not None


def test_a_log_that_grows_is_cosigned_step_by_step(witness: WitnessProcess, log: TestLog) -> None:
    for old, size in ((0, 0), (0, 1), (1, 1), (1, 3), (3, 256), (256, 300), (300, 300)):
        assert cosigned(witness.add(log.request(old, size)), log, log.checkpoint(size), witness.verifier), (old, size)
    answer = witness.add(log.request(300, 70_000))
    assert cosigned(answer, log, log.checkpoint(70_000), witness.verifier)
    kept = httpx.get(f"{witness.url}/{origin_hash(log.origin)}/checkpoint")
    assert kept.content == log.checkpoint(70_000) + answer.content
    assert kept.headers["content-type"] == "text/plain; charset=utf-8"


def test_the_first_checkpoint_may_be_of_any_size(witness: WitnessProcess, log: TestLog) -> None:
    assert witness.add(log.request(0, 1_000)).status_code == 200
    assert size_known(witness.add(log.request(0, 1_001))) == 1_000


def test_extension_lines_and_the_signatures_of_others_are_cosigned_but_not_kept(witness: WitnessProcess, log: TestLog) -> None:
    text = f"{log.origin}\n3\n{base64.b64encode(log.tree(3).root()).decode()}\nmore\n".encode()
    key = VerifierKey.parse(log.verifier)
    own = f"\u2014 {log.origin} {base64.b64encode(key.key_id + log.key.sign(text)).decode()}\n".encode()
    other = f"\u2014 {log.origin} {base64.b64encode(b'1234' + bytes(2_420)).decode()}\n".encode()
    answer = witness.add(request(0, [], text + b"\n" + other * 15 + own))
    assert cosigned(answer, log, text + b"\n" + own, witness.verifier)
    assert httpx.get(f"{witness.url}/{origin_hash(log.origin)}/checkpoint").content == text + b"\n" + own + answer.content


LOG = LOGS[-1]
TWO = LOG.request(0, 2)
HASH = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 0\n\n",
        TWO.replace(b"old 0", b"old 00"),
        TWO.replace(b"old 0", b"old -0"),
        TWO.replace(b"old 0", b"old  0"),
        TWO.replace(b"old 0", b"old 0 "),
        TWO.replace(b"old 0", b"new 0"),
        TWO.replace(b"old 0", b"old"),
        TWO.replace(b"old 0", b"old " + b"9" * 30),
        TWO.replace(b"old 0\n", b"old 0\r\n"),
        TWO.replace(b"old 0\n\n", b"old 0\n"),
        TWO.replace(b"old 0\n\n", b"old 0\n" + f"{HASH}\n".encode() * 64 + b"\n"),
        TWO.replace(b"old 0\n\n", b"old 0\n" + HASH[:-4].encode() + b"\n\n"),
        TWO.replace(b"old 0\n\n", b"old 0\n" + HASH[:-1].encode() + b"\n\n"),
        TWO.replace(b"old 0\n\n", b"old 0\n\xc3\xa4\n\n"),
        TWO[:-1],
        TWO + b"\n",
        TWO.replace(b"\n2\n", b"\n02\n"),
        TWO.replace(b"\n2\n", b"\n2\n\n"),
        LOG.request(3, 2),
    ],
    ids=range(21),
)
def test_a_malformed_request_is_400(witness: WitnessProcess, body: bytes) -> None:
    answer = witness.add(body)
    assert answer.status_code == 400
    assert answer.text.strip()


def test_a_log_that_is_not_watched_is_404(witness: WitnessProcess) -> None:
    assert witness.add(TestLog("log.example/unknown").request(0, 2)).status_code == 404
    assert httpx.get(f"{witness.url}/{origin_hash('log.example/unknown')}/checkpoint").status_code == 404


def test_a_log_of_which_nothing_was_cosigned_has_no_checkpoint(witness: WitnessProcess, log: TestLog) -> None:
    assert httpx.get(f"{witness.url}/{origin_hash(log.origin)}/checkpoint").status_code == 404


def test_a_checkpoint_that_the_log_did_not_sign_is_403(witness: WitnessProcess, log: TestLog) -> None:
    assert witness.add(log.request(0, 2, key=TestKey(8))).status_code == 403
    tampered = log.request(0, 2).replace(f"{log.origin}\n2\n".encode(), f"{log.origin}\n3\n".encode())
    assert witness.add(tampered).status_code == 403
    elsewhere = TestLog(log.origin + "x", log.key).checkpoint(2).replace(f"{log.origin}x\n".encode(), f"{log.origin}\n".encode(), 1)
    assert witness.add(request(0, [], elsewhere)).status_code == 403
    assert size_known(witness.add(log.request(2, 2))) == 0


def test_a_good_signature_beside_a_bad_one_of_the_same_key_is_403(witness: WitnessProcess, log: TestLog) -> None:
    bad = base64.b64encode(VerifierKey.parse(log.verifier).key_id + bytes(64)).decode()
    assert witness.add(log.request(0, 2) + f"\u2014 {log.origin} {bad}\n".encode()).status_code == 403


def test_another_old_size_than_the_one_it_knows_is_409(witness: WitnessProcess, log: TestLog) -> None:
    assert size_known(witness.add(log.request(1, 5))) == 0
    witness.add(log.request(0, 5))
    for old, size in ((0, 5), (0, 9), (4, 9), (6, 9), (0, 0), (3, 4)):
        assert size_known(witness.add(log.request(old, size))) == 5


def test_what_does_not_grow_from_what_it_knows_is_422(witness: WitnessProcess, log: TestLog) -> None:
    witness.add(log.request(0, 5))
    proof = log.tree(9).consistency(5)
    for body in (
        log.request(5, 9, twist=4),
        log.request(5, 5, twist=4),
        request(5, [], log.checkpoint(9)),
        request(5, [*proof, bytes(32)], log.checkpoint(9)),
        request(5, proof[::-1], log.checkpoint(9)),
        request(5, [bytes(32)], log.checkpoint(5)),
    ):
        answer = witness.add(body)
        assert (answer.status_code, bool(answer.text.strip())) == (422, True)
    assert size_known(witness.add(log.request(0, 9))) == 5


def test_from_nothing_there_is_nothing_to_prove_and_an_empty_tree_has_one_root(witness: WitnessProcess, log: TestLog) -> None:
    assert witness.add(request(0, [bytes(32)], log.checkpoint(2))).status_code == 422
    text = f"{log.origin}\n0\n{HASH}\n".encode()
    key_id = VerifierKey.parse(log.verifier).key_id
    signed = text + f"\n\u2014 {log.origin} {base64.b64encode(key_id + log.key.sign(text)).decode()}\n".encode()
    assert witness.add(request(0, [], signed)).status_code == 422
    assert parse_checkpoint(parse_note(log.checkpoint(0)).text).root == EMPTY_ROOT
    assert witness.add(log.request(0, 0)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/add-checkpoint", 405),
        ("PUT", "/add-checkpoint", 405),
        ("POST", "/add-checkpoint/", 404),
        ("POST", f"/{'0' * 64}/checkpoint", 405),
        ("GET", f"/{'A' * 64}/checkpoint", 404),
        ("GET", "/", 404),
        ("POST", "/sign-subtree", 404),
    ],
)
def test_there_is_nothing_else(witness: WitnessProcess, method: str, path: str, status: int) -> None:
    assert httpx.request(method, witness.url + path).status_code == status


def test_a_body_that_is_too_long_is_not_read(witness: WitnessProcess) -> None:
    answer = witness.add(b"old 0\n" + b"x" * 300_000)
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


def test_connections_are_kept(witness: WitnessProcess, log: TestLog) -> None:
    connection = HTTPConnection(witness.url.removeprefix("http://"))
    connection.connect()
    first = connection.sock
    for old in range(3):
        connection.request("POST", "/add-checkpoint", log.request(old, old + 1))
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:4]) == (200, "\u2014 ".encode())
        assert connection.sock is first
    connection.close()


def test_of_requests_that_race_one_grows_it_and_none_takes_it_back(witness: WitnessProcess, log: TestLog) -> None:
    """The race of the specification: two requests pass the check, and the smaller one is written last."""
    size = 0
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            bodies = [log.request(size, size + step) for step in (1, 9, 2, 8, 3, 7, 4, 6)]
            answers = list(pool.map(witness.add, bodies))
            won = [index for index, answer in enumerate(answers) if answer.status_code == 200]
            assert len(won) == 1
            size += (1, 9, 2, 8, 3, 7, 4, 6)[won[0]]
            assert {size_known(answer) for index, answer in enumerate(answers) if index not in won} == {size}


def started(home: Path, log: TestLog, **options: Any) -> WitnessProcess:
    return WitnessProcess(home, [log.verifier], **options)


def test_what_it_kept_and_did_not_get_to_say_still_binds_it(tmp_path: Path) -> None:
    log, home = TestLog("log.example/l"), tmp_path / "home"
    dying = started(home, log, program=("-c", DIES_BEFORE_IT_ANSWERS))
    with pytest.raises(httpx.RemoteProtocolError):
        dying.add(log.request(0, 5))
    dying.kill()
    again = started(home, log)
    assert again.key == dying.key
    assert size_known(again.add(log.request(0, 5, twist=2))) == 5
    assert again.add(log.request(5, 5, twist=2)).status_code == 422
    assert cosigned(again.add(log.request(5, 7)), log, log.checkpoint(7), again.verifier)
    again.kill()
    once_more = started(home, log)
    assert size_known(once_more.add(log.request(0, 1))) == 7
    assert once_more.stop() == ""


def test_two_witnesses_do_not_share_a_home(tmp_path: Path) -> None:
    log = TestLog("log.example/l")
    first = started(tmp_path, log)
    second = started(tmp_path, log)
    assert second.process.wait(20) == 2
    assert "in use by another witness" in second.stop()
    assert first.add(log.request(0, 1)).status_code == 200
    first.stop()


@pytest.fixture
def beside(tmp_path: Path) -> Witness:
    """A witness without a process around it."""
    home = WitnessHome(tmp_path / "home")
    return Witness(home, home.key("witness.example/w"), [VerifierKey.parse(TestLog("log.example/l").verifier)])


def test_it_keeps_what_contradicts_what_it_cosigned(beside: Witness) -> None:
    log = TestLog("log.example/l")
    assert beside.add_checkpoint(log.request(0, 5)).status == 200
    assert beside.add_checkpoint(log.request(5, 9, twist=1)).status == 422
    assert beside.add_checkpoint(log.request(0, 5, twist=1)).status == 409
    assert beside.add_checkpoint(log.request(0, 5, twist=1)).status == 409
    assert [file.name.rpartition("-")[0] for file in beside.home.evidence()] == ["fork-5", "unproven-9"]
    fork = json.loads(beside.home.evidence()[0].read_text())
    one, other = parse_note(fork["cosigned"].encode()), parse_note(fork["submitted"].encode().partition(b"\n\n")[2])
    assert all(log_signed(note, VerifierKey.parse(log.verifier)) for note in (one, other))
    assert parse_checkpoint(one.text).size == parse_checkpoint(other.text).size == 5
    assert parse_checkpoint(one.text).root != parse_checkpoint(other.text).root


def test_no_flood_of_bad_proofs_fills_its_disk_or_drives_out_a_fork(beside: Witness) -> None:
    log = TestLog("log.example/l")
    beside.add_checkpoint(log.request(0, 5))
    for size in range(6, 6 + MAX_EVIDENCE + 5):
        assert beside.add_checkpoint(request(5, [], log.checkpoint(size))).status == 422
    beside.add_checkpoint(log.request(5, 5, twist=1))
    names = [file.name for file in beside.home.evidence()]
    assert sum(name.startswith("unproven-") for name in names) == MAX_EVIDENCE
    assert any(name.startswith("fork-5-") for name in names)


def test_a_log_changes_its_key_only_when_the_witness_is_told(tmp_path: Path) -> None:
    old, new = TestLog("log.example/l"), TestLog("log.example/l", TestKey(9))
    home = WitnessHome(tmp_path / "home")
    before = Witness(home, home.key(), [VerifierKey.parse(old.verifier)])
    assert before.add_checkpoint(old.request(0, 5)).status == 200
    assert before.add_checkpoint(new.request(5, 6)).status == 403
    told = Witness(home, home.key(), [VerifierKey.parse(old.verifier), VerifierKey.parse(new.verifier)])
    assert [told.add_checkpoint(log.request(*sizes)).status for log, sizes in ((new, (5, 6)), (old, (6, 7)))] == [200, 200]


def test_a_disk_that_refuses_is_no_cosignature(beside: Witness) -> None:
    log = TestLog("log.example/l")
    (beside.home.folder / "checkpoints").touch()
    with pytest.raises(OSError, match="checkpoints"):
        beside.add_checkpoint(log.request(0, 5))
    (beside.home.folder / "checkpoints").unlink()
    assert beside.add_checkpoint(log.request(0, 4)).status == 200


def test_what_it_kept_cannot_be_replaced_by_what_it_did_not_sign(beside: Witness) -> None:
    log, logs = TestLog("log.example/l"), [VerifierKey.parse(TestLog("log.example/l").verifier)]
    beside.add_checkpoint(log.request(0, 5))
    kept = beside.home.folder / "checkpoints" / hashlib.sha256(b"log.example/l").hexdigest()
    whole = kept.read_bytes()
    for spoilt in (log.checkpoint(1), whole.replace(b"\n5\n", b"\n4\n"), b""):
        kept.write_bytes(spoilt)
        with pytest.raises(SettingsError, match="not what was signed"):
            Witness(beside.home, beside.home.key(), logs)


def test_its_key_is_its_own_and_its_name_never_changes(tmp_path: Path) -> None:
    home = WitnessHome(tmp_path / "home")
    key = home.key("witness.example/w")
    assert home.key() == key
    assert (tmp_path / "home" / "witness.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsError, match=r"this witness is witness\.example/w, not"):
        home.key("witness.example/v")
    with pytest.raises(SettingsError, match="cannot name a witness"):
        WitnessHome(tmp_path / "other").key("two words")
    (tmp_path / "home" / "witness.key").chmod(0o644)
    with pytest.raises(SettingsError, match="open to other accounts"):
        home.key()


def test_the_command_line_makes_the_key_and_shows_what_was_cosigned(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    told = RUNNER.invoke(app, ["witness", "key", "--home", home, "--name", "witness.example/w"]).stdout.strip()
    key = VerifierKey.parse(told)
    assert (key.name, key.kind) == ("witness.example/w", 4)
    assert RUNNER.invoke(app, ["witness", "key", "--home", home]).stdout.strip() == told
    assert "nothing yet" in RUNNER.invoke(app, ["witness", "state", "--home", home]).stdout
    assert RUNNER.invoke(app, ["witness", "state", "--home", home + "2"]).exit_code == 2
    log, kept = TestLog("log.example/l"), WitnessHome(tmp_path / "home")
    Witness(kept, kept.key(), [VerifierKey.parse(log.verifier)]).add_checkpoint(log.request(0, 5))
    shown = json.loads(RUNNER.invoke(app, ["--json", "witness", "state", "--home", home]).stdout)
    assert [(found["origin"], found["size"]) for found in shown["logs"]] == [("log.example/l", 5)]
    assert cosigned_at(parse_note(shown["logs"][0]["note"].encode()), key) is not None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--log", "nonsense"], "not a verifier key"),
        (["--log", VerifierKey("w", 4, bytes(32)).text()], "not the key of a log"),
        (["--log", LOG.verifier, "--listen", "127.0.0.1"], "not HOST:PORT"),
        (["--log", LOG.verifier, "--listen", "192.0.2.1:1"], "cannot be listened on"),
        (["--log", LOG.verifier, "--name", "a+b"], "cannot name a witness"),
    ],
)
def test_what_it_cannot_start_with_is_said(tmp_path: Path, options: list[str], says: str) -> None:
    result = RUNNER.invoke(app, ["witness", "run", "--home", str(tmp_path / "home"), *options], env={**os.environ, "COLUMNS": "200"})
    assert (result.exit_code, says in result.output) == (2, True)
