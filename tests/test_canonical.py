"""The bytes that are signed: equal to RFC 8785 inside the profile, refused with a reason outside it."""

import unicodedata
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from domain.values import MAX_SAFE_INTEGER
from infra.canonical import ProfileError, canonical, loads_strict

_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_texts = st.text(_characters, max_size=20).map(lambda text: unicodedata.normalize("NFC", text))
_keys = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=8)
_scalars = st.none() | st.booleans() | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | _texts
_values = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4), max_leaves=12)


@given(_values)
def test_inside_the_profile_it_is_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "path", "rule"),
    [
        ({"a": [1, 2.5]}, "a[1]", "floats"),
        ({"a": float("nan")}, "a", "floats"),
        ({"a": MAX_SAFE_INTEGER + 1}, "a", "2**53"),
        ({"é": 1}, "é", "ASCII"),
        ({"a": "e\u0301"}, "a", "NFC"),
        ({"a": "\ud800"}, "a", "surrogates"),
        ({"a": b"bytes"}, "a", "bytes"),
    ],
)
def test_outside_the_profile_it_says_where_and_why(value: Any, path: str, rule: str) -> None:
    with pytest.raises(ProfileError) as refused:
        canonical(value)
    assert refused.value.path == path
    assert rule in refused.value.rule
    assert refused.value.remedy


@pytest.mark.parametrize("document", [b'{"a":1,"a":2}', b'{"b":{"a":1,"a":1}}', b"[NaN]", b"[Infinity]", b"[" * 100_000])
def test_what_parsers_disagree_on_is_refused(document: bytes) -> None:
    with pytest.raises(ProfileError):
        loads_strict(document)
