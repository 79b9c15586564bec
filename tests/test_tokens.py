"""Access tokens: what is issued is accepted until it runs out, and nothing else is accepted, whatever it looks like."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore, FileSigner
from infra.token_settings import LIFETIME_SECONDS
from infra.tokens import TokenIssuer, TokenRefused

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
    return signed_text(compact(header), compact(claims), sign)


def signed_text(header: bytes, claims: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    text = f"{b64(header)}.{b64(claims)}".encode()
    return text + b"." + b64(sign(text)).encode()


def compact(value: Any) -> bytes:
    """JSON as our tokens write it."""
    return json.dumps(value, separators=(",", ":")).encode()


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
    clock.now += 899.9
    assert tokens.verify(token.encode()) == verified
    clock.now += 0.1
    assert reason(tokens, token.encode()) == "expired"
    assert reason(tokens, token.encode()) == "expired"


def test_an_expired_token_that_was_never_seen_is_refused(tokens: TokenIssuer, clock: Clock) -> None:
    token = tokens.issue(AGENT).encode()
    clock.now += 900
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
    raised = f"{b64(compact(header))}.{b64(compact({**claims, 'roles': ['admin']}))}.{signature}"
    assert reason(tokens, raised.encode()) == "signature_wrong"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"iss": "aureus.test/two"}, "issuer_unknown"),
        ({"iss": None}, "claims_wrong"),
        ({"aud": "another-service"}, "audience_wrong"),
        ({"aud": None}, "claims_wrong"),
        ({"exp": NOW}, "expired"),
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


def test_a_claim_that_stands_twice_or_is_written_otherwise_is_refused(tokens: TokenIssuer, signer: FileSigner) -> None:
    header, claims = parts(tokens.issue(AGENT))
    plain = compact(claims)
    twice = plain[:-1] + b',"sub":"usr-adm"}'
    for text in (twice, plain.replace(b":", b": ", 1), plain.replace(b"acme", b"\\u0061cme"), plain + b" ", b"[" + plain + b"]"):
        assert json.loads(text) is not None
        assert reason(tokens, signed_text(compact(header), text, signer.sign)) == "malformed"
    assert tokens.verify(signed_text(compact(header), plain, signer.sign)).asker == AGENT


def test_base64_that_is_not_canonical_is_refused(tokens: TokenIssuer) -> None:
    token = tokens.issue(AGENT)
    header, payload, signature = token.split(".")
    assert tokens.verify(token.encode()).asker == AGENT
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other_bits = signature[:-1] + alphabet[alphabet.index(signature[-1]) + 1]  # the last four bits of it stand for nothing
    assert base64.urlsafe_b64decode(other_bits + "==") == base64.urlsafe_b64decode(signature + "==")
    for changed in (
        f"{header}.{payload}.{other_bits}",
        f"{header}.{payload}.{signature}==",
        f"{header}.{payload}=.{signature}",
        f"{header}=.{payload}.{signature}",
        f"{header}.{payload}.{signature}.",
        f".{token}",
        f"{header}.{payload}\n.{signature}",
        f"{header}.{payload}.{signature[:-1]}",
    ):
        assert reason(tokens, changed.encode()) in {"malformed", "signature_wrong"}, changed


# RFC 9864 would have the curve in the algorithm's name; what verifies our tokens knows the older one.
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated:joserfc.errors.SecurityWarning")
ROLES = st.frozensets(st.sampled_from(list(Role)), min_size=1)
ASKERS = st.builds(
    Asker,
    actor=st.from_regex(r"(usr|agt|svc)-[a-z0-9]{1,20}", fullmatch=True),
    tenant=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@=~-]{0,30}", fullmatch=True),
    roles=ROLES,
    kind=st.sampled_from(list(ActorKind)),
    owner=st.none() | st.just("usr-ana"),
    session=st.none() | st.just(f"ses-{'0' * 32}"),
)
ISSUER = TokenIssuer(FileSigner.from_seed("token", bytes(range(32)), "2026-03-03T14:00:00Z"), "aureus.test/one", clock=lambda: float(NOW))


def by_joserfc(token: str) -> dict[str, Any]:
    """What a library that knows nothing of us makes of a token, by our public keys alone. Raises JoseError or ValueError."""
    keys = KeySet.import_key_set(ISSUER.public_keys())  # type: ignore[arg-type]
    decoded = jwt.decode(token, keys, algorithms=["EdDSA"])
    jwt.JWTClaimsRegistry(now=NOW, iss={"essential": True, "value": "aureus.test/one"}).validate(decoded.claims)
    return decoded.claims


@given(asker=ASKERS)
def test_whatever_we_issue_others_verify_and_we_read_back_the_same(asker: Asker) -> None:
    token = ISSUER.issue(asker)
    claims = by_joserfc(token)
    assert (claims["sub"], claims["tenant"], claims.get("sid")) == (asker.actor, asker.tenant, asker.session)
    assert ISSUER.verify(token.encode()).asker == asker


@given(asker=ASKERS, place=st.integers(min_value=0), bit=st.integers(0, 5))
def test_a_token_in_which_anything_is_changed_is_refused_by_us_and_by_others(asker: Asker, place: int, bit: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = ISSUER.issue(asker)
    places = [at for at, character in enumerate(token[:-1]) if character != "."]
    at = places[place % len(places)]
    changed = f"{token[:at]}{alphabet[alphabet.index(token[at]) ^ (1 << bit)]}{token[at + 1 :]}"
    with pytest.raises(TokenRefused):
        ISSUER.verify(changed.encode())
    with pytest.raises((JoseError, ValueError)):
        by_joserfc(changed)


def test_an_oversized_token_is_refused_before_it_is_read(tokens: TokenIssuer) -> None:
    assert reason(tokens, b"a" * 4_097) == "oversized"
    assert reason(tokens, tokens.issue(AGENT).encode() + b"a" * 1_048_576) == "oversized"


def test_a_known_token_costs_far_less_than_a_signature_check(tokens: TokenIssuer) -> None:
    shown = [tokens.issue(AGENT).encode() for _ in range(50)]

    def seconds() -> float:
        began = time.perf_counter()
        for token in shown:
            tokens.verify(token)
        return time.perf_counter() - began

    first = seconds()
    assert min(seconds() for _ in range(5)) < first / 5
