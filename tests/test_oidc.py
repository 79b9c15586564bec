"""What is believed of an identity provider: tokens of every kind of forger, and providers that are down, slow, or change their keys."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import OctKey

from infra.oidc import LOGOUT_EVENT, GrantRefused, Provider, TokenNotBelieved
from infra.oidc_fetching import FRESH_SECONDS, KEPT_SECONDS, RETRY_SECONDS, ProviderUnreachable
from infra.oidc_keys import keys_of
from infra.oidc_settings import ALGORITHMS, oidc_place
from infra.settings_error import SettingsError
from tests.support.provider import AUDIENCE, CLIENT, SECRET, LocalProvider, ec_key, local_provider, place, sign

pytestmark = pytest.mark.anyio


class Clock:
    """Goes on as a test says."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
async def local() -> AsyncIterator[LocalProvider]:
    async with local_provider() as provider:
        yield provider


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(local: LocalProvider, clock: Clock) -> AsyncIterator[Provider]:
    opened = Provider(place(local.issuer), clock=clock)
    yield opened
    await opened.close()


def encoded(part: dict[str, Any]) -> str:
    """A header or a body as it stands in a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


async def refused(provider: Provider, token: str) -> str:
    """Why an ID token is not believed."""
    with pytest.raises(TokenNotBelieved) as caught:
        await provider.id_token(token, CLIENT)
    return caught.value.reason


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_good_token_is_believed(local: LocalProvider, provider: Provider, algorithm: str) -> None:
    assert (await provider.id_token(local.signed(local.claims(), algorithm), CLIENT))["sub"] == "ada"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": "https://elsewhere.example"}, "issuer_wrong"),
        ({"iss": None}, "issuer_wrong"),
        ({"aud": "another-client"}, "audience_wrong"),
        ({"aud": None}, "audience_wrong"),
        ({"aud": [CLIENT, "another-client"], "azp": "another-client"}, "azp_wrong"),
        ({"aud": [CLIENT, "another-client"], "azp": None}, "azp_wrong"),
        ({"azp": "another-client"}, "azp_wrong"),
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"exp": None}, "times_wrong"),
        ({"exp": "tomorrow"}, "times_wrong"),
        ({"exp": True}, "times_wrong"),
        ({"nbf": int(time.time()) + 600}, "not_yet_valid"),
        ({"iat": int(time.time()) + 600}, "not_yet_valid"),
        ({"iat": None}, "times_wrong"),
        ({"sub": None}, "subject_missing"),
        ({"sub": 7}, "subject_missing"),
        ({"typ": "Bearer"}, "type_wrong"),
        ({"events": {LOGOUT_EVENT: {}}}, "type_wrong"),
    ],
)
async def test_a_claim_that_is_wrong_refuses_the_token(
    local: LocalProvider, provider: Provider, changed: dict[str, Any], reason: str
) -> None:
    assert await refused(provider, local.signed(local.claims(**changed))) == reason


async def test_a_clock_may_be_half_a_minute_off(local: LocalProvider, provider: Provider) -> None:
    now = int(time.time())
    assert await provider.id_token(local.signed(local.claims(exp=now - 20)), CLIENT)
    assert await provider.id_token(local.signed(local.claims(iat=now + 20, nbf=now + 20)), CLIENT)


class TestForgeries:
    async def test_hs256_with_the_public_key_as_its_secret(self, local: LocalProvider, provider: Provider) -> None:
        key = local.keys["RS256"]
        for secret in (key.as_pem(private=False), json.dumps(key.as_dict(private=False)).encode()):
            signed = f"{encoded({'alg': 'HS256', 'kid': key.kid})}.{encoded(local.claims())}"
            tag = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), "sha256")).rstrip(b"=").decode()
            assert await refused(provider, f"{signed}.{tag}") == "algorithm_not_allowed"

    @pytest.mark.parametrize("alg", ["none", "None", "nOnE", "HS512", "RS512", "PS256", "", 7, None])
    async def test_an_algorithm_that_is_not_allowed(self, local: LocalProvider, provider: Provider, alg: Any) -> None:
        token = f"{encoded({'alg': alg, 'kid': 'rsa-1'})}.{encoded(local.claims())}."
        assert await refused(provider, token) == "algorithm_not_allowed"

    async def test_a_key_id_of_another_kind_of_key(self, local: LocalProvider, provider: Provider) -> None:
        assert await refused(provider, local.signed(local.claims(), "ES256", kid="rsa-1")) == "algorithm_wrong"

    async def test_a_good_key_id_over_another_key(self, local: LocalProvider, provider: Provider) -> None:
        forged = sign({"alg": "ES256", "kid": "ec-1"}, local.claims(), ec_key("ec-1"))
        assert await refused(provider, forged) == "signature_wrong"

    async def test_a_key_that_the_token_brings_along(self, local: LocalProvider, provider: Provider) -> None:
        """Nor is anything fetched from where the token says its key is."""
        own = ec_key("mine")
        places = {"jku": f"{local.issuer}/mine", "x5u": f"{local.issuer}/mine", "jwk": own.as_dict(private=False)}
        assert await refused(provider, sign({"alg": "ES256", "kid": "mine", **places}, local.claims(), own)) == "key_unknown"
        assert await refused(provider, sign({"alg": "ES256", **places}, local.claims(), own)) == "key_unnamed"
        assert not any("mine" in path for path in local.asked)

    async def test_a_header_that_must_be_understood_and_is_not(self, local: LocalProvider, provider: Provider) -> None:
        token = local.signed(local.claims())
        header = encoded({"alg": "RS256", "kid": "rsa-1", "crit": ["exp"], "exp": 1})
        assert await refused(provider, f"{header}.{token.split('.', 1)[1]}") == "malformed"

    async def test_a_token_of_one_megabyte_is_not_read(self, local: LocalProvider, provider: Provider) -> None:
        assert await refused(provider, local.signed(local.claims(more="x" * 1_000_000))) == "oversized"
        assert local.asked == []

    @pytest.mark.parametrize("token", ["", "a", "a.b.c", "....", "e30.e30.e30", "bnVsbA.e30.", "\N{SNOWMAN}.x.y", "W10.W10.", "[" * 9_000])
    async def test_what_is_no_token(self, provider: Provider, token: str) -> None:
        assert await refused(provider, token) in {"malformed", "algorithm_not_allowed"}

    async def test_a_body_that_was_changed(self, local: LocalProvider, provider: Provider) -> None:
        header, _, signature = local.signed(local.claims()).split(".")
        assert await refused(provider, f"{header}.{encoded(local.claims('eve'))}.{signature}") == "signature_wrong"


class TestAccessTokens:
    async def test_one_that_is_meant_for_us_is_believed(self, local: LocalProvider, provider: Provider) -> None:
        assert (await provider.access_token(local.access_token()))["scope"] == "openid aureus"
        assert await provider.access_token(local.access_token(scope=None, scp=["aureus"], typ=None))

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"audience": CLIENT}, "audience_wrong"),
            ({"scope": None}, "type_wrong"),
            ({"typ": "ID"}, "type_wrong"),
            ({"nonce": "n"}, "type_wrong"),
            ({"events": {LOGOUT_EVENT: {}}}, "type_wrong"),
        ],
    )
    async def test_any_other_is_not(self, local: LocalProvider, provider: Provider, changed: dict[str, Any], reason: str) -> None:
        with pytest.raises(TokenNotBelieved) as caught:
            await provider.access_token(local.access_token(**changed))
        assert caught.value.reason == reason

    async def test_none_is_where_no_audience_is_set(self, local: LocalProvider) -> None:
        provider = Provider(place(local.issuer, audience=None))
        with pytest.raises(TokenNotBelieved, match="access_tokens_not_accepted"):
            await provider.access_token(local.access_token())
        await provider.close()


class TestLogoutTokens:
    async def test_a_good_one_is_believed_and_an_old_one_or_an_id_token_is_not(self, local: LocalProvider, provider: Provider) -> None:
        events: dict[str, Any] = {"events": {LOGOUT_EVENT: {}}, "typ": "Logout"}
        assert (await provider.logout_token(local.signed(local.claims(**events))))["sub"] == "ada"
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, "type_wrong"),
            ({**events, "nonce": "n"}, "type_wrong"),
            ({"events": ["x"]}, "type_wrong"),
            ({**events, "iat": int(time.time()) - 300}, "expired"),
        ]
        for changed, reason in wrong:
            with pytest.raises(TokenNotBelieved, match=reason):
                await provider.logout_token(local.signed(local.claims(**changed)))


class TestKeys:
    async def test_a_new_key_is_found_at_the_first_token_signed_with_it(
        self, local: LocalProvider, provider: Provider, clock: Clock
    ) -> None:
        """A provider that rotates in mid-flight: tokens of both keys hold while both are published, and the old one's while we keep it."""
        old = local.signed(local.claims(), "ES256")
        assert await provider.id_token(old, CLIENT)
        clock.ahead = RETRY_SECONDS
        local.keys["ES256"] = ec_key("ec-2")
        assert await provider.id_token(local.signed(local.claims(), "ES256"), CLIENT)
        assert await refused(provider, old) == "key_unknown"

    async def test_made_up_key_ids_do_not_make_us_ask_again_and_again(self, local: LocalProvider, provider: Provider, clock: Clock) -> None:
        await provider.id_token(local.signed(local.claims()), CLIENT)
        clock.ahead = RETRY_SECONDS
        local.asked.clear()
        forged = [sign({"alg": "ES256", "kid": f"no-{number}"}, local.claims(), ec_key("no")) for number in range(20)]
        assert await asyncio.gather(*(refused(provider, token) for token in forged)) == ["key_unknown"] * 20
        assert local.asked == ["/realms/bank/keys"]

    async def test_keys_are_kept_for_a_day_while_the_provider_is_away(self, local: LocalProvider, provider: Provider, clock: Clock) -> None:
        assert await provider.id_token(local.signed(local.claims()), CLIENT)
        await local.stop()
        for clock.ahead in (FRESH_SECONDS + 1, KEPT_SECONDS - 60):
            later = int(clock())
            assert await provider.id_token(local.signed(local.claims(iat=later, exp=later + 60)), CLIENT)
        clock.ahead = KEPT_SECONDS + 60
        later = int(clock())
        with pytest.raises(ProviderUnreachable):
            await provider.id_token(local.signed(local.claims(iat=later, exp=later + 60)), CLIENT)

    async def test_a_withdrawn_key_goes_within_the_hour(self, local: LocalProvider, provider: Provider, clock: Clock) -> None:
        token = local.signed(local.claims(exp=int(time.time()) + 9_000), "ES256")
        assert await provider.id_token(token, CLIENT)
        del local.keys["ES256"]
        clock.ahead = FRESH_SECONDS + 1
        assert await provider.id_token(token, CLIENT)  # this one has it looked for, and does not wait
        for _ in range(100):
            await asyncio.sleep(0.02)
            if local.asked.count("/realms/bank/keys") == 2:
                break
        await asyncio.sleep(0.1)
        assert await refused(provider, token) == "key_unknown"

    def test_keys_that_nobody_should_use_are_passed_over(self) -> None:
        weak = rsa.generate_private_key(65_537, 1_024).public_key().public_numbers().n
        good = ec_key("good").as_dict(private=False)
        listed: list[Any] = [
            OctKey.generate_key(256, {"kid": "shared"}).as_dict(),
            {"kty": "RSA", "kid": "weak", "e": "AQAB", "n": base64.urlsafe_b64encode(weak.to_bytes(128)).rstrip(b"=").decode()},
            {**good, "kid": "for-encryption", "use": "enc"},
            {**good, "kid": "for-another-algorithm", "alg": "ES384"},
            {**good, "kid": "broken", "x": "AAAA"},
            {**good, "kid": 7},
            "no key at all",
            good,
        ]
        assert list(keys_of({"keys": listed}, ALGORITHMS)) == ["good"]
        assert keys_of({"keys": listed}, ("RS256",)) == keys_of({"keys": "none"}, ALGORITHMS) == {}


class TestProviders:
    @pytest.mark.parametrize("trouble", ["redirect", "huge", "garbage", "error"])
    async def test_one_that_answers_nonsense_is_as_good_as_away(self, local: LocalProvider, provider: Provider, trouble: str) -> None:
        local.trouble = trouble
        with pytest.raises(ProviderUnreachable):
            await provider.id_token(local.signed(local.claims()), CLIENT)
        assert "/elsewhere" not in local.asked

    async def test_one_that_is_slow_is_not_waited_for_longer_than_five_seconds(
        self, local: LocalProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("infra.oidc_fetching.ANSWER_SECONDS_MAX", 0.2)
        local.trouble = "slow"
        began = time.monotonic()
        waiting = [provider.login_url("http://127.0.0.1/back", state="s", nonce="n", verifier="v" * 43) for _ in range(10)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(error, ProviderUnreachable) for error in found)
        assert time.monotonic() - began < 2
        assert len(local.asked) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"issuer": "https://elsewhere.example"},
            {"jwks_uri": "http://169.254.169.254/keys"},
            {"token_endpoint": "http://elsewhere.example/token"},
            {"token_endpoint": "https://user:password@elsewhere.example/token"},
            {"token_endpoint": None},
            {"jwks_uri": "file:///etc/passwd"},
        ],
    )
    async def test_one_that_describes_itself_wrongly_is_not_used(
        self, local: LocalProvider, provider: Provider, changes: dict[str, Any]
    ) -> None:
        local.changes = changes
        with pytest.raises(ProviderUnreachable):
            await provider.login_url("http://127.0.0.1/back", state="s", nonce="n", verifier="v" * 43)

    async def test_somebody_is_logged_in_by_a_code_that_only_whoever_began_can_use(self, local: LocalProvider, provider: Provider) -> None:
        back = "http://127.0.0.1/back"
        url = await provider.login_url(back, state="s", nonce="n", verifier="v" * 43)
        assert (await provider.redeem(local.logs_in(url)["code"], back, nonce="n", verifier="v" * 43)).claims["sub"] == "ada"
        with pytest.raises(GrantRefused, match="invalid_grant"):
            await provider.redeem(local.logs_in(url)["code"], back, nonce="n", verifier="w" * 43)
        with pytest.raises(TokenNotBelieved, match="nonce_wrong"):
            await provider.redeem(local.logs_in(url)["code"], back, nonce="another", verifier="v" * 43)


class TestSettings:
    GOOD = {
        "AUREUS_OIDC_ISSUER": "https://id.example/realms/bank",
        "AUREUS_OIDC_CLIENT_ID": CLIENT,
        "AUREUS_PUBLIC_URL": "https://a.example/",
    }

    def test_no_issuer_no_provider(self) -> None:
        assert oidc_place(lambda _name: None, 8420) is None

    def test_what_is_left_out_has_a_default_and_the_secret_is_not_shown(self) -> None:
        found = oidc_place({**self.GOOD, "AUREUS_OIDC_CLIENT_SECRET": SECRET, "AUREUS_OIDC_AUDIENCE": AUDIENCE}.get, 8420)
        assert found is not None
        assert (found.algorithms, found.groups_claim, found.public_url) == (ALGORITHMS, "groups", "https://a.example")
        assert SECRET not in repr(found)

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"AUREUS_OIDC_ISSUER": "http://id.example"}, "AUREUS_OIDC_ISSUER"),
            ({"AUREUS_OIDC_ISSUER": "https://user:pw@id.example"}, "AUREUS_OIDC_ISSUER"),
            ({"AUREUS_OIDC_ISSUER": "https://id.example?x=1"}, "AUREUS_OIDC_ISSUER"),
            ({"AUREUS_OIDC_ISSUER": "https://[::1"}, "AUREUS_OIDC_ISSUER"),
            ({"AUREUS_PUBLIC_URL": "http://a.example"}, "AUREUS_PUBLIC_URL"),
            ({"AUREUS_OIDC_CLIENT_ID": ""}, "AUREUS_OIDC_CLIENT_ID"),
            ({"AUREUS_OIDC_CLIENT_ID": "a b"}, "AUREUS_OIDC_CLIENT_ID"),
            ({"AUREUS_OIDC_GROUPS_CLAIM": "a b"}, "AUREUS_OIDC_GROUPS_CLAIM"),
            ({"AUREUS_OIDC_ALGORITHMS": "RS256,HS256"}, "AUREUS_OIDC_ALGORITHMS"),
            ({"AUREUS_OIDC_ALGORITHMS": "none"}, "AUREUS_OIDC_ALGORITHMS"),
            ({"AUREUS_OIDC_TLS_ROOTS": "/no/such/file"}, "AUREUS_OIDC_TLS_ROOTS"),
            ({"AUREUS_OIDC_CLIENT_SECRET_FILE": "/no/such/file"}, "AUREUS_OIDC_CLIENT_SECRET_FILE"),
            ({"AUREUS_OIDC_TENANT": "a tenant"}, "AUREUS_OIDC_TENANT"),
            ({"AUREUS_OIDC_TENANT": "acme", "AUREUS_OIDC_TENANT_CLAIM": "tenant"}, "AUREUS_OIDC_TENANT_CLAIM"),
        ],
    )
    def test_what_cannot_be_is_refused_by_name(self, changed: dict[str, str], field: str) -> None:
        given = {**self.GOOD, **changed}
        with pytest.raises(SettingsError) as caught:
            oidc_place(lambda name: given.get(name) or None, 8420)
        assert caught.value.field == field
