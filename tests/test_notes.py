"""Notes: what is signed reads in one way only, a signature counts under its own key only, and all else is refused."""

import base64
from dataclasses import replace
from pathlib import Path

import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.checkpoint import Checkpoint, verifier_key
from infra.verifier import notes
from infra.verifier.notes import LOG, WITNESS, BadNote, VerifierKey, cosignature_line, cosigned_at, log_signed, parse_checkpoint, parse_note

ROOT = Path(__file__).parent.parent
# The examples of c2sp.org/signed-note and c2sp.org/tlog-cosignature, byte for byte.
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
EVENING = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "\u2014 quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\u2014 witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)


class Key:
    """An Ed25519 key as libsodium makes it."""

    def __init__(self, seed: int) -> None:
        self.public, self._secret = nacl.bindings.crypto_sign_seed_keypair(bytes([seed]) * 32)

    def sign(self, message: bytes) -> bytes:
        return nacl.bindings.crypto_sign(message, self._secret)[:64]


LOG_KEY, OTHER_KEY, WITNESS_KEY = Key(1), Key(2), Key(3)
TEXT = Checkpoint("log.example/l", 7, bytes(range(32)))
NOTE = TEXT.signed(LOG_KEY)
LOG_VKEY = VerifierKey("log.example/l", LOG, LOG_KEY.public)
WITNESS_VKEY = VerifierKey("witness.example/w", WITNESS, WITNESS_KEY.public)
SEEN = 1_700_000_000


def _cosigned(at: int = SEEN, key: Key = WITNESS_KEY, name: str = "witness.example/w") -> bytes:
    return NOTE + cosignature_line(name, key.sign, key.public, TEXT.text().encode(), at)


def _line(name: str, raw: bytes) -> bytes:
    return f"\u2014 {name} {base64.b64encode(raw).decode()}\n".encode()


def test_the_examples_of_the_texts() -> None:
    assert log_signed(parse_note(FOO_NOTE.encode()), VerifierKey.parse(FOO))
    poem = parse_note(EVENING.encode())
    assert poem.text.decode().endswith("\n\ned è subito sera.\n")
    assert [signature.name for signature in poem.signatures] == ["quasimodo.example/salvatore"]
    sofa = parse_note(SOFA.encode())
    assert parse_checkpoint(sofa.text).size == 20852163
    assert sofa.signatures[1].key_id.hex() == "8d66cf3f"
    assert int.from_bytes(sofa.signatures[1].blob[:8]) == 1679315147


def test_the_message_of_the_cosignature_text() -> None:
    text = parse_note(SOFA.encode()).text
    line = cosignature_line("w", lambda message: message, bytes(32), text, 1679315147).decode()
    assert base64.b64decode(line.removeprefix("\u2014 w "))[12:] == b"cosignature/v1\ntime 1679315147\n" + text


def test_the_cosignature_in_formats_md() -> None:
    key, checkpoint = Key(8), (ROOT / "tests/golden/wire/checkpoint.txt").read_bytes()
    verifier = VerifierKey("witness.example/w", WITNESS, key.public)
    line = cosignature_line(verifier.name, key.sign, key.public, parse_note(checkpoint).text, 1772546401)
    assert f"{line.decode()}\n{verifier.text()}\n" in (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    assert cosigned_at(parse_note(checkpoint + line), verifier) == 1772546401


def test_a_checkpoint_is_read_and_verified_as_it_was_signed() -> None:
    note = parse_note(_cosigned())
    assert parse_checkpoint(note.text) == notes.CheckpointText("log.example/l", 7, bytes(range(32)))
    assert log_signed(note, LOG_VKEY)
    assert cosigned_at(note, WITNESS_VKEY) == SEEN


def test_verifier_keys_read_back() -> None:
    for key in (LOG_VKEY, WITNESS_VKEY):
        assert VerifierKey.parse(key.text()) == key
    assert LOG_VKEY.text() == verifier_key("log.example/l", LOG_KEY.public)


def test_one_key_under_two_kinds_or_two_names_is_two_keys() -> None:
    ids = {VerifierKey(name, kind, LOG_KEY.public).key_id for name in ("a", "b") for kind in (LOG, WITNESS)}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a verifier key"),
        ("name", "not a verifier key"),
        ("name+00000000", "not a verifier key"),
        (FOO.replace("example.com/foo", ""), "not a verifier key"),
        (FOO.replace("example.com/foo", "example com"), "not a verifier key"),
        (FOO.replace("example.com/foo", "example.com\u2003foo"), "not a verifier key"),
        (FOO.replace("example.com/foo", "example.com/bar"), "says its id is"),
        (FOO.replace("530d903a", "530D903A"), "says its id is"),
        (FOO.replace("530d903a", "530d903b"), "says its id is"),
        (FOO.replace("AekyeRrm", "AfkyeRrm"), "says its id is"),
        (FOO.replace("AekyeRrm", "BOkyeRrm"), "says its id is"),  # the same key as one of kind 4
        (FOO.replace("AekyeRrm", "BekyeRrm"), "not Ed25519"),
        (FOO[:-4], "not Ed25519"),
        (FOO[:-1], "not base64"),
        (FOO + "\n", "not base64"),
    ],
)
def test_a_malformed_verifier_key_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadNote, match=says):
        VerifierKey.parse(text)


SIGNATURE = _line("log.example/l", b"1234" + bytes(64))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no empty line"),
        (b"text\n", "no empty line"),
        (b"text\n" + SIGNATURE, "no empty line"),
        (b"text\n\n", "no signature"),
        (b"text\n\n" + SIGNATURE[:-1], "cut off"),
        (b"text\n\n" + SIGNATURE + b"\n", "no signature"),
        (b"text\n\n" + SIGNATURE + b"more\n", "not a signature line"),
        (b"text\n\n\n", "no signature"),
        (b"text\n\n" + SIGNATURE.replace("\u2014".encode(), b"-"), "not a signature line"),
        (b"text\n\n" + SIGNATURE.replace(b" ", b"", 1), "not a signature line"),
        (b"text\n\n" + SIGNATURE.replace(b" ", b"  ", 1), "not a signature line"),
        (b"text\n\n" + SIGNATURE.replace(b"log.", b"log+"), "not a signature line"),
        (b"text\n\n" + SIGNATURE.replace(b"log.", "log\u00a0".encode()), "not a signature line"),
        (b"text\n\n" + SIGNATURE.replace(b"=\n", b"\n"), "not base64"),
        (b"text\n\n" + SIGNATURE.replace(b"=\n", b"= \n"), "not base64"),
        (b"text\n\n" + _line("name", b"1234"), "shorter"),
        (b"text\n\n" + _line("name", b""), "shorter"),
        ("text\n\n\u2014 name MTIzNDV=\n".encode(), "another way"),
        (b"text\r\n\n" + SIGNATURE, "control characters"),
        (b"te\0xt\n\n" + SIGNATURE, "control characters"),
        (b"text\xff\n\n" + SIGNATURE, "not UTF-8 at byte 4"),
        (b"\xed\xa0\x80\n\n" + SIGNATURE, "not UTF-8 at byte 0"),
        (b"text\n\n" + SIGNATURE * 65, "65 signatures"),
        (b"x" * 1_100_000 + b"\n\n" + SIGNATURE, "bytes is over"),
    ],
)
def test_a_malformed_note_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadNote, match=says):
        parse_note(data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least three lines"),
        ("log\n7\n", "at least three lines"),
        (f"log\n7\n{base64.b64encode(bytes(32)).decode()}", "at least three lines"),
        (f"\n7\n{base64.b64encode(bytes(32)).decode()}\n", "none of them empty"),
        (f"log\n\n{base64.b64encode(bytes(32)).decode()}\n", "none of them empty"),
        (f"log\n7\n{base64.b64encode(bytes(32)).decode()}\n\nextension\n", "none of them empty"),
        (f"log\n7\n{base64.b64encode(bytes(31)).decode()}\n", "31 bytes"),
        (f"log\n7\n{base64.b64encode(bytes(33)).decode()}\n", "33 bytes"),
        (f"log\n7\n{base64.b64encode(bytes(32)).decode()[:-1]}\n", "not base64"),
        (f"log\n7\n{base64.b64encode(bytes(32)).decode()[:-2]}B=\n", "another way"),
        (f"log\n7\n{base64.urlsafe_b64encode(bytes([255] * 32)).decode()}\n", "not base64"),
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadNote, match=says):
        parse_checkpoint(text.encode())


SIZES = ["07", "+7", "-7", "7 ", " 7", "\u0667", "1e3", "0x7", "7_0", "9223372036854775808", "1" * 5000]


@pytest.mark.parametrize("size", SIZES, ids=range(len(SIZES)))
def test_the_size_of_a_tree_is_written_in_one_way_only(size: str) -> None:
    with pytest.raises(BadNote, match="decimal"):
        parse_checkpoint(f"log\n{size}\n{base64.b64encode(bytes(32)).decode()}\n".encode())


def test_extension_lines_and_the_empty_tree_are_allowed() -> None:
    root = base64.b64encode(bytes(32)).decode()
    assert parse_checkpoint(f"log\n0\n{root}\nmore\nand more\n".encode()).size == 0


def test_signatures_of_other_keys_are_ignored_even_with_a_known_name_or_id() -> None:
    elsewhere = _line("log.example/l", b"1234" + bytes(64)) + _line("other", LOG_VKEY.key_id + bytes(64))
    assert log_signed(parse_note(NOTE + elsewhere), LOG_VKEY)
    only_others = parse_note(TEXT.text().encode() + b"\n" + elsewhere)
    assert not log_signed(only_others, LOG_VKEY)
    assert cosigned_at(only_others, WITNESS_VKEY) is None


def test_a_key_id_put_on_another_key_s_signature_is_refused() -> None:
    swapped = _line("log.example/l", LOG_VKEY.key_id + OTHER_KEY.sign(TEXT.text().encode()))
    with pytest.raises(BadNote, match="does not hold"):
        log_signed(parse_note(TEXT.text().encode() + b"\n" + swapped), LOG_VKEY)


def test_the_right_key_under_the_wrong_name_does_not_count() -> None:
    assert cosigned_at(parse_note(_cosigned(name="witness.example/v")), WITNESS_VKEY) is None
    assert not log_signed(parse_note(NOTE), replace(LOG_VKEY, name="log.example/m"))


def test_a_bad_signature_spoils_the_good_one_beside_it() -> None:
    bad = _line("log.example/l", LOG_VKEY.key_id + bytes(64))
    with pytest.raises(BadNote, match="does not hold"):
        log_signed(parse_note(NOTE + bad), LOG_VKEY)
    short = _line("witness.example/w", WITNESS_VKEY.key_id + bytes(64))
    with pytest.raises(BadNote, match="has 64 bytes, not 72"):
        cosigned_at(parse_note(_cosigned() + short), WITNESS_VKEY)


def test_two_signatures_by_one_key_are_one_witness_at_the_earliest_time() -> None:
    both = _cosigned(SEEN + 5) + _cosigned(SEEN)[len(NOTE) :]
    assert cosigned_at(parse_note(both), WITNESS_VKEY) == SEEN


def test_a_cosignature_holds_for_its_time_and_its_checkpoint_only() -> None:
    line = _cosigned()[len(NOTE) :]
    raw = base64.b64decode(line.split()[2])
    later = _line("witness.example/w", raw[:4] + (SEEN + 1).to_bytes(8) + raw[12:])
    with pytest.raises(BadNote, match="does not hold"):
        cosigned_at(parse_note(NOTE + later), WITNESS_VKEY)
    with pytest.raises(BadNote, match="does not hold"):
        cosigned_at(parse_note(replace(TEXT, size=8).signed(LOG_KEY) + line), WITNESS_VKEY)


@pytest.mark.parametrize("at", [0, 1 << 63, (1 << 64) - 1])
def test_a_cosignature_states_a_time(at: int) -> None:
    with pytest.raises(BadNote, match="states no time"):
        cosigned_at(parse_note(_cosigned(at)), WITNESS_VKEY)


def test_a_key_answers_for_its_own_kind_of_signature() -> None:
    with pytest.raises(BadNote, match="kind 4"):
        log_signed(parse_note(_cosigned()), WITNESS_VKEY)
    with pytest.raises(BadNote, match="kind 1"):
        cosigned_at(parse_note(_cosigned()), LOG_VKEY)


def test_malleable_signatures_and_small_keys_do_not_hold() -> None:
    group_order = 2**252 + 27742317777372353535851937790883648493
    signature = LOG_KEY.sign(TEXT.text().encode())
    twin = signature[:32] + (int.from_bytes(signature[32:], "little") + group_order).to_bytes(32, "little")
    with pytest.raises(BadNote, match="does not hold"):
        log_signed(parse_note(TEXT.text().encode() + b"\n" + _line("log.example/l", LOG_VKEY.key_id + twin)), LOG_VKEY)
    small = VerifierKey("log.example/l", LOG, b"\x01" + bytes(31))
    forged = _line("log.example/l", small.key_id + b"\x01" + bytes(63))
    with pytest.raises(BadNote, match="does not hold"):
        log_signed(parse_note(TEXT.text().encode() + b"\n" + forged), small)


@given(st.integers(0, len(_cosigned()) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(index: int, flip: int) -> None:
    data = bytearray(_cosigned())
    data[index] ^= flip
    try:
        note = parse_note(bytes(data))
        counted = log_signed(note, LOG_VKEY), cosigned_at(note, WITNESS_VKEY)
    except BadNote:
        return
    assert counted != (True, SEEN)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), st.integers(1, 3))
def test_any_text_is_read_back_as_it_was_signed(line: str, lines: int) -> None:
    text = f"{line}\n".encode() * lines
    note = text + b"\n" + _line("log.example/l", LOG_VKEY.key_id + LOG_KEY.sign(text))
    assert parse_note(note).text == text
    assert log_signed(parse_note(note), LOG_VKEY)
