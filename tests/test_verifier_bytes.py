"""One event, one way to write it: what the verifier reads quickly is what it would have read slowly, and everything else is refused."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from typing import Any, Final
from unicodedata import normalize

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.canonical import ProfileError
from infra.canonical import canonical as server_canonical
from infra.verifier.canonical import NotCanonical, canonical, canonical_object
from infra.verifier.events import Bad, decoded, open_entry, read_body, read_place
from infra.verifier.shapes import HEAD, Shapes
from tests.golden import WIRES, Wire

ENTRY: Final = Wire.read(WIRES[-1]).entries[-1]
BODY: Final = open_entry(ENTRY)[0]
MEMBER: Final = json.loads(BODY)

keys = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=6)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map(lambda text: normalize("NFC", text))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=4)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


# -- canonical JSON


@given(objects)
def test_what_the_server_writes_is_read_and_comes_back_the_same(value: dict[str, Any]) -> None:
    written = server_canonical(value)
    assert canonical_object(written) == value
    assert canonical(value) == written


@given(anything)
def test_whatever_somebody_writes_is_taken_only_if_the_server_would_have_written_it(value: Any) -> None:
    document = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    try:
        wanted = server_canonical(value) if isinstance(value, dict) else None
    except (ProfileError, UnicodeEncodeError):
        wanted = None
    if document == wanted:
        assert canonical_object(document) == value
    else:
        with pytest.raises(NotCanonical):
            canonical_object(document)


@given(objects, st.data())
def test_no_byte_can_be_put_in_taken_out_or_changed(value: dict[str, Any], data: st.DataObject) -> None:
    """Some other document may come of it, and then it says something else."""
    written = server_canonical(value)
    at = data.draw(st.integers(0, len(written)))
    put, out = data.draw(st.binary(max_size=2)), data.draw(st.integers(0, 2))
    other = written[:at] + put + written[at + out :]
    try:
        read = canonical_object(other)
    except NotCanonical:
        return
    assert other == written or read != value
    assert server_canonical(read) == other


REFUSED: Final = {
    b'{"a":1,"a":1}': "stands twice",
    b'{"b":1,"a":1}': "not canonical JSON at byte 2",
    b'{"a": 1}': "not canonical JSON at byte 5",
    b'{"a":1}\n': "not canonical JSON at byte 7",
    b'{"a":1.0}': "only integers",
    b'{"a":1e2}': "only integers",
    b'{"a":-0}': "not canonical JSON",
    b'{"a":01}': "not JSON",
    b'{"a":NaN}': "only integers",
    b'{"a":-Infinity}': "only integers",
    b'{"a":9007199254740992}': "beyond",
    b'{"a":' + b"9" * 5_000 + b"}": "beyond",
    rb'{"a":"\ud800"}': "surrogate",
    b'{"a":"\xed\xa0\x80"}': "UTF-8 at byte 6",
    '{"a":"e\u0301"}'.encode(): "NFC",
    rb'{"a":"\u0000"}': "U+0000",
    rb'{"a":"\u0041"}': "not canonical JSON",
    rb'{"a":"\/"}': "not canonical JSON",
    '{"\u00e9":1}'.encode(): "not ASCII",
    b'\xef\xbb\xbf{"a":1}': "not JSON",
    b"[1]": "not a JSON object",
    b"": "not JSON",
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}": "nested",
}


@pytest.mark.parametrize(("document", "why"), REFUSED.items(), ids=lambda one: repr(one[:24]))
def test_each_refusal_says_why(document: bytes, why: str) -> None:
    with pytest.raises(NotCanonical, match=re.escape(why)):
        canonical_object(document)


# -- shapes: a body that looks like one seen before


def head_of(body: bytes) -> tuple[bytes, ...] | None:
    """As a verifier reads it that has seen nothing."""
    try:
        member = read_body(body)
    except Bad:
        return None
    return tuple(str(member[name]).encode() for name in HEAD)


@given(objects, objects, st.data())
def test_a_body_is_read_by_its_shape_exactly_when_it_would_be_read_without(one: Any, other: Any, data: st.DataObject) -> None:
    shapes = Shapes()
    shapes.head(server_canonical({**MEMBER, "data": one}))
    body = server_canonical({**MEMBER, "data": other, "actor": data.draw(texts), "version": data.draw(st.integers(1, 10**15))})
    at = data.draw(st.integers(0, len(body)))
    body = body[:at] + data.draw(st.binary(max_size=2)) + body[at + data.draw(st.integers(0, 2)) :]
    try:
        found: tuple[bytes, ...] | None = shapes.head(body)
    except Bad:
        found = None
    assert found == head_of(body)


CHANGES: Final = {
    "another text": (b"usr-ana", b"usr-ben"),
    "a longer text": (b"usr-ana", b"usr-ana" * 40),
    "a text that is not ASCII": (b'"agent"', '"Ag\u00e9nt"'.encode()),
    "a text that is not NFC": (b'"agent"', '"Age\u0301nt"'.encode()),
    "a text with an escape": (b'"agent"', rb'"ag\"ent"'),
    "a control character": (b'"agent"', b'"ag\x1fent"'),
    "U+007F": (b'"agent"', b'"ag\x7fent"'),
    "a surrogate": (b'"agent"', b'"\xed\xa0\x80"'),
    "another type of event": (b"access.actor_registered", b"access.actor_invented"),
    "another version": (b'"version":1}', b'"version":12}'),
    "version 0": (b'"version":1}', b'"version":0}'),
    "a version with a zero before it": (b'"version":1}', b'"version":01}'),
    "a negative version": (b'"version":1}', b'"version":-1}'),
    "a text for a version": (b'"version":1}', b'"version":"1"}'),
    "another version of the body": (b'"v":1,', b'"v":2,'),
    "true for 1": (b'"v":1,', b'"v":true,'),
    "null for a text": (b'"actor":"usr-ana"', b'"actor":null'),
    "a member more": (b'"data":{', b'"data":{"a":1,'),
    "white space": (b'"data":{', b'"data": {'),
    "a time of another form": (b".000000Z", b"+00:00"),
    "what follows": (b'"version":1}', b'"version":1}}'),
}


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
def test_a_change_to_a_body_is_judged_the_same_with_its_shape_known(old: bytes, new: bytes) -> None:
    shapes = Shapes()
    shapes.head(BODY)
    changed = BODY.replace(old, new)
    assert changed != BODY
    wanted = head_of(changed)
    if wanted is None:
        with pytest.raises(Bad):
            shapes.head(changed)
    else:
        assert shapes.head(changed) == wanted


@given(objects, objects)
def test_the_place_of_an_event_is_found_from_the_end_whatever_its_data_say(data: Any, inner: Any) -> None:
    decoy = {"id": "x", "prev": "y", "schema": 1, "stream": "s", "tenant": "t", "type": "z", "v": 1, "version": 7, "data": inner}
    body = server_canonical({**MEMBER, "data": {**data, "decoy": decoy}, "version": 3})
    assert read_place(envelope(payload=base64.b64encode(body).decode())) == (
        MEMBER["tenant"].encode(),
        MEMBER["stream"].encode(),
        3,
        MEMBER["prev"].encode(),
    )


# -- the envelope


@given(st.binary(max_size=40), st.data())
def test_base64_is_taken_in_one_way_only(raw: bytes, data: st.DataObject) -> None:
    text = base64.b64encode(raw)
    assert decoded(text) == raw
    at = data.draw(st.integers(0, len(text)))
    other = text[:at] + data.draw(st.sampled_from([b"", b"A", b"=", b"\n", b"-", b"B"])) + text[at + data.draw(st.integers(0, 1)) :]
    with suppress(ValueError):
        assert base64.b64encode(decoded(other)) == other


def envelope(**members: Any) -> bytes:
    return server_canonical({**json.loads(ENTRY), **members})


SIGNATURE: Final = json.loads(ENTRY)["signatures"][0]
ENTRIES: Final = {
    "two signatures": envelope(signatures=[SIGNATURE, {**SIGNATURE, "keyid": "ab" * 32}]),
    "a short key id": envelope(signatures=[{**SIGNATURE, "keyid": "ab"}]),
}
BAD_ENTRIES: Final = {
    "no signature": envelope(signatures=[]),
    "one key twice": envelope(signatures=[SIGNATURE, SIGNATURE]),
    "another payload type": envelope(payloadType="application/json"),
    "a member more": envelope(more=1),
    "a signature with a member more": envelope(signatures=[{**SIGNATURE, "alg": "none"}]),
    "signatures that are none": envelope(signatures="x"),
    "a payload that is no base64": envelope(payload="*"),
    "a payload with spare bits": ENTRY.replace(b'","payloadType"', b'B==","payloadType"'),
    "white space": ENTRY.replace(b":", b": ", 1),
    "a line feed": ENTRY + b"\n",
    "nothing": b"",
    "no envelope": BODY,
    "too long": envelope(payload="A" * 65_536),
    "a quote in the key id": ENTRY[:-150] + b'"' + ENTRY[-149:],
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_envelopes_that_are_written_as_they_should_be(entry: bytes) -> None:
    body, signatures = open_entry(entry)
    assert body == BODY
    assert [key_id for key_id, _ in signatures] == [one["keyid"] for one in json.loads(entry)["signatures"]]


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_envelopes_that_are_not(entry: bytes) -> None:
    with pytest.raises(Bad) as bad:
        open_entry(entry)
    assert bad.value.check == "entry"


@given(st.integers(0, len(ENTRY)), st.binary(max_size=3), st.integers(0, 3))
@example(12, b"", 3)  # padding that is left over
def test_an_entry_that_is_taken_is_the_only_way_to_write_it(at: int, put: bytes, out: int) -> None:
    entry = ENTRY[:at] + put + ENTRY[at + out :]
    try:
        body, signatures = open_entry(entry)
    except Bad:
        return
    written = [{"keyid": key_id, "sig": base64.b64encode(signature).decode()} for key_id, signature in signatures]
    payload = {"payload": base64.b64encode(body).decode(), "payloadType": "application/vnd.aureus.event.v1+json", "signatures": written}
    assert orjson.dumps(payload, option=orjson.OPT_SORT_KEYS) == entry
