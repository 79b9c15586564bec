"""An OpenID Connect provider of a test's own: a real HTTP server with real keys, that also does what no provider should."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlsplit

from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from infra.oidc_settings import OidcPlace

Key = RSAKey | ECKey | OKPKey
CLIENT, SECRET, CLI, AUDIENCE = "aureus-console", "between us: 50%", "aureus-cli", "aureus"
_RSA: Final = RSAKey.generate_key(2048, {"kid": "rsa-1"})  # the one kind that takes long to make


def place(issuer: str, **more: Any) -> OidcPlace:
    """The settings of an Aureus that believes this provider."""
    told: dict[str, Any] = {"client_id": CLIENT, "client_secret": SECRET, "cli_client_id": CLI, "audience": AUDIENCE}
    return OidcPlace(**{"issuer": issuer, "public_url": "http://127.0.0.1:8420", **told, **more})


class LocalProvider:
    """What it answers is set by its attributes; `asked` are the paths it was asked for."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {"RS256": _RSA, "ES256": ec_key("ec-1"), "EdDSA": ed_key("ed-1")}
        self.asked: list[str] = []
        self.trouble: str | None = None
        """`slow`, `redirect`, `huge`, `garbage` or `error`: how every request is answered."""
        self.changes: dict[str, Any] = {}
        """What the discovery document says otherwise."""
        self.port = 0
        self._codes: dict[str, dict[str, Any]] = {}
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.StreamWriter] = set()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/realms/bank"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._busy:
                writer.transport.abort()
            self._server = None

    # What it says

    def jwks(self) -> dict[str, Any]:
        return {"keys": [{**key.as_dict(private=False), "use": "sig", "alg": name} for name, key in self.keys.items()]}

    def claims(self, subject: str = "ada", *, audience: str = CLIENT, **more: Any) -> dict[str, Any]:
        """A good ID token's; None leaves a claim out."""
        now = int(time.time())
        good = {"iss": self.issuer, "sub": subject, "aud": audience, "azp": CLIENT, "iat": now, "exp": now + 300, "typ": "ID"}
        return {name: value for name, value in {**good, **more}.items() if value is not None}

    def signed(self, claims: dict[str, Any], algorithm: str = "RS256", **header: Any) -> str:
        key = self.keys[algorithm]
        return sign({"alg": algorithm, "typ": "JWT", "kid": key.kid, **header}, claims, key)

    def access_token(self, subject: str = "ada", **more: Any) -> str:
        told = {"audience": AUDIENCE, "typ": "Bearer", "scope": "openid aureus", "azp": "risk-desk", **more}
        return self.signed(self.claims(subject, **told))

    def logs_in(self, login_url: str, subject: str = "ada", **claims: Any) -> dict[str, str]:
        """What the browser brings back after somebody logged in where it was sent."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(login_url).query).items()}
        code = secrets.token_hex(8)
        told = self.claims(subject, **{"nonce": asked["nonce"], **claims})
        self._codes[code] = {"challenge": asked["code_challenge"], "redirect_uri": asked["redirect_uri"], "claims": told}
        return {"code": code, "state": asked["state"], "iss": self.issuer}

    def lets_in(self, device_code: str, subject: str = "ada", **claims: Any) -> None:
        self._codes[device_code] = {"claims": self.claims(subject, audience=CLI, azp=CLI, **claims)}

    # How it answers

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._busy.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            path = lines[0].split()[1]
            self.asked.append(path)
            if self.trouble == "slow":
                await asyncio.sleep(60)
            status, told = self._answer(path, headers, dict(parse_qsl(body.decode())))
            head = [f"HTTP/1.1 {status} as told", "content-type: application/json", f"content-length: {len(told)}", "connection: close"]
            if status == 302:
                head.append(f"location: http://127.0.0.1:{self.port}/elsewhere")
            writer.write("\r\n".join([*head, "", ""]).encode() + told)
            await writer.drain()
        self._busy.discard(writer)
        writer.close()

    def _answer(self, path: str, headers: dict[str, str], form: dict[str, str]) -> tuple[int, bytes]:
        match self.trouble:
            case "redirect":
                return 302, b""
            case "huge":
                return 200, b'{"keys": "' + b"x" * 1_000_000 + b'"}'
            case "garbage":
                return 200, b"<html>Welcome to the hotel's network</html>"
            case "error":
                return 500, b"{}"
            case _:
                status, told = self._told(path.removeprefix("/realms/bank/"), headers, form)
                return status, json.dumps(told).encode()

    def _told(self, path: str, headers: dict[str, str], form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        match path:
            case ".well-known/openid-configuration":
                ends = {"authorization": "authorize", "token": "token", "device_authorization": "device", "end_session": "logout"}
                own = {f"{name}_endpoint": f"{self.issuer}/{end}" for name, end in ends.items()}
                return 200, {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **own, **self.changes}
            case "keys":
                return 200, self.jwks()
            case "device":
                code = secrets.token_hex(8)
                self._codes[code] = {"claims": None}
                shown = {"user_code": "WDJB-MJHT", "verification_uri": f"{self.issuer}/enter", "expires_in": 600, "interval": 1}
                return 200, {"device_code": code, **shown}
            case "token":
                return self._granted(headers, form)
            case _:
                return 404, {}

    def _granted(self, headers: dict[str, str], form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        device = form.get("device_code")
        grant = self._codes.get(device or form["code"])
        if grant is None:
            return 400, {"error": "invalid_grant"}
        if grant["claims"] is None:
            return 400, {"error": "authorization_pending"}
        if device is None:
            basic = base64.b64encode(b"aureus-console:between%20us%3A%2050%25").decode()
            challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
            if headers.get("authorization") != f"Basic {basic}":
                return 401, {"error": "invalid_client"}
            if challenge != grant["challenge"] or form["redirect_uri"] != grant["redirect_uri"]:
                return 400, {"error": "invalid_grant"}
        del self._codes[device or form["code"]]
        return 200, {"id_token": self.signed(grant["claims"]), "access_token": "opaque", "token_type": "Bearer"}


def ec_key(kid: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid})


def ed_key(kid: str) -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": kid})


def sign(header: dict[str, Any], claims: dict[str, Any], key: Key | OctKey) -> str:
    """Any token that the library can make, sensible or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # forgers do not heed it
        registry = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
        registry.max_payload_length = 10_000_000
        return jws.serialize_compact(header, json.dumps(claims).encode(), key, registry=registry)


@asynccontextmanager
async def local_provider() -> AsyncIterator[LocalProvider]:
    provider = LocalProvider()
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()
