"""Access tokens: what is issued is accepted until it runs out, and nothing else is accepted, whatever it looks like."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore, FileSigner
from infra.tokens import LIFETIME_SECONDS, TokenIssuer, TokenRefused

NOW = 1_790_000_000
AGENT = Asker("agt-bot", "acme", frozenset({Role.AGENT, Role.VIEWER}), ActorKind.AGENT, owner="usr-ana")


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileKeystore.open(tmp_path / "keys").token


@pytest.fixture
def tokens(signer: FileSigner, clock: Clock) -> TokenIssuer:
    return TokenIssuer(signer, "aureus.test/one", clock=clock)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    return json.loads(header), json.loads(claims)


def signed(header: dict[str, Any], claims: Any, sign: Callable[[bytes], bytes]) -> bytes:
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}".encode()
    return text + b"." + b64(sign(text)).encode()


def reason(tokens: TokenIssuer, token: bytes) -> str:
    with pytest.raises(TokenRefused) as refused:
        tokens.verify(token)
    return refused.value.reason


def test_a_token_speaks_for_its_actor_for_a_quarter_of_an_hour(tokens: TokenIssuer, clock: Clock) -> None:
    token = tokens.issue(AGENT)
    verified = tokens.verify(token.encode())
    assert verified.asker == AGENT
    assert verified.expires_at == NOW + LIFETIME_SECONDS == NOW + 900
    header, claims = parts(token)
    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": tokens.public_keys()["keys"][0]["kid"]}
    assert set(claims) == {"iss", "aud", "sub", "tenant", "roles", "kind", "owner", "iat", "nbf", "exp", "jti"}
    clock.now += 904
    assert tokens.verify(token.encode()) == verified
    clock.now += 2
    assert reason(tokens, token.encode()) == "expired"
    assert reason(tokens, token.encode()) == "expired"


def test_an_expired_token_that_was_never_seen_is_refused(tokens: TokenIssuer, clock: Clock) -> None:
    token = tokens.issue(AGENT).encode()
    clock.now += 906
    assert reason(tokens, token) == "expired"


def test_two_tokens_are_never_the_same(tokens: TokenIssuer) -> None:
    assert tokens.issue(AGENT) != tokens.issue(AGENT)


def test_others_verify_it_by_the_public_key(tokens: TokenIssuer, signer: FileSigner) -> None:
    (key,) = tokens.public_keys()["keys"]
    assert "d" not in key
    assert base64.urlsafe_b64decode(key["x"] + "=") == signer.public


def test_no_other_algorithm_is_accepted(tokens: TokenIssuer, signer: FileSigner) -> None:
    header, claims = parts(tokens.issue(AGENT))
    for name in ("none", "None", "HS256", "RS256", "ES256", "Ed25519"):
        assert reason(tokens, signed({**header, "alg": name}, claims, signer.sign)) == "algorithm_not_allowed"
    unsigned = signed({**header, "alg": "none"}, claims, lambda _text: b"")
    assert reason(tokens, unsigned) == "algorithm_not_allowed"
    with_public_key = signed({**header, "alg": "HS256"}, claims, lambda text: hmac.digest(signer.public, text, "sha256"))
    assert reason(tokens, with_public_key) == "algorithm_not_allowed"


def test_a_forged_or_changed_token_is_refused(tokens: TokenIssuer, tmp_path: Path) -> None:
    token = tokens.issue(AGENT)
    header, claims = parts(token)
    stranger = FileKeystore.open(tmp_path / "other").token
    assert reason(tokens, signed(header, claims, stranger.sign)) == "signature_wrong"
    assert reason(tokens, signed({**header, "jwk": {"kty": "OKP"}}, claims, stranger.sign)) in {"malformed", "signature_wrong"}
    _, _, signature = token.split(".")
    raised = f"{b64(json.dumps(header).encode())}.{b64(json.dumps({**claims, 'roles': ['admin']}).encode())}.{signature}"
    assert reason(tokens, raised.encode()) == "signature_wrong"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"iss": "aureus.test/two"}, "issuer_unknown"),
        ({"iss": None}, "claims_wrong"),
        ({"aud": "another-service"}, "audience_wrong"),
        ({"aud": None}, "claims_wrong"),
        ({"exp": NOW - 6}, "expired"),
        ({"exp": None}, "claims_wrong"),
        ({"exp": "tomorrow"}, "claims_wrong"),
        ({"nbf": NOW + 6}, "not_yet_valid"),
        ({"iat": NOW + 6}, "not_yet_valid"),
        ({"sub": 7}, "claims_wrong"),
        ({"tenant": None}, "claims_wrong"),
        ({"roles": ["emperor"]}, "claims_wrong"),
        ({"kind": "ghost"}, "claims_wrong"),
    ],
)
def test_claims_are_checked_even_under_our_own_signature(
    tokens: TokenIssuer, signer: FileSigner, change: dict[str, Any], expected: str
) -> None:
    header, claims = parts(tokens.issue(AGENT))
    changed = {name: value for name, value in {**claims, **change}.items() if value is not None}
    assert reason(tokens, signed(header, changed, signer.sign)) == expected


def test_five_seconds_between_two_clocks_are_forgiven(tokens: TokenIssuer, clock: Clock) -> None:
    token = tokens.issue(AGENT).encode()
    clock.now -= 5
    assert tokens.verify(token).asker == AGENT


def test_header_members_are_checked(tokens: TokenIssuer, signer: FileSigner) -> None:
    header, claims = parts(tokens.issue(AGENT))
    assert reason(tokens, signed({**header, "typ": "JWT"}, claims, signer.sign)) == "wrong_type"
    assert reason(tokens, signed({**header, "kid": "00"}, claims, signer.sign)) == "unknown_key"
    assert reason(tokens, signed({**header, "crit": ["exp"], "exp": 1}, claims, signer.sign)) == "malformed"


@pytest.mark.parametrize("token", [b"", b".", b"..", b"a.b.c", b"\xff\xfe.\x00.x", b"e30.e30.e30", b"W10.W10.", b"null.null.null"])
def test_what_is_no_token_is_refused(tokens: TokenIssuer, token: bytes) -> None:
    assert reason(tokens, token) in {"malformed", "algorithm_not_allowed", "signature_wrong"}


@pytest.mark.parametrize("claims", [[], "text", 5, None])
def test_claims_that_are_no_object_are_refused(tokens: TokenIssuer, signer: FileSigner, claims: Any) -> None:
    header, _ = parts(tokens.issue(AGENT))
    assert reason(tokens, signed(header, claims, signer.sign)) == "malformed"


def test_an_oversized_token_is_refused_before_it_is_read(tokens: TokenIssuer) -> None:
    assert reason(tokens, b"a" * 4_097) == "oversized"


def test_a_known_token_costs_far_less_than_a_signature_check(tokens: TokenIssuer) -> None:
    shown = [tokens.issue(AGENT).encode() for _ in range(50)]

    def seconds() -> float:
        began = time.perf_counter()
        for token in shown:
            tokens.verify(token)
        return time.perf_counter() - began

    first = seconds()
    assert min(seconds() for _ in range(5)) < first / 5
