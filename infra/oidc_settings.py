"""The identity provider whose people log in here, if there is one: where it is, and what of its tokens is believed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from infra.secret_files import secret_in
from infra.settings_error import SettingsError

ALGORITHMS: Final = ("EdDSA", "RS256", "ES256")
"""All of them asymmetric: whoever can verify a token must not be able to make one."""
_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})
TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/=~-]{0,199}")
_CLAIM: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")
_CLIENT: Final = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True)
class OidcPlace:
    """An OpenID Connect provider, the clients that Aureus is known as there, and which claims say what."""

    issuer: str
    client_id: str
    """The client of the console, with which people log in through a browser."""
    public_url: str
    """Where browsers reach this Aureus; the provider sends them back there."""
    name: str = "your identity provider"
    """What people call it, who are to log in there."""
    client_secret: str | None = field(default=None, repr=False)
    """None for a public client: then PKCE alone keeps others from using a code."""
    cli_client_id: str | None = None
    """The public client of `aureus login --device`; None leaves that out."""
    audience: str | None = None
    """Whom the access tokens that are shown here must be meant for; None accepts none of the provider's."""
    groups_claim: str = "groups"
    tenant_claim: str | None = None
    """The claim that names somebody's tenant; None puts everybody into `tenant`."""
    tenant: str | None = None
    """None is the tenant that this Aureus serves by default."""
    algorithms: tuple[str, ...] = ALGORITHMS
    tls_roots: Path | None = None
    """The PEM file of the roots that the provider's certificate is verified against; None believes the public ones."""


def oidc_place(given: Callable[[str], str | None], port: int) -> OidcPlace | None:
    """The provider from AUREUS_OIDC_*; None when no issuer is named. Raises SettingsError."""
    issuer = given("AUREUS_OIDC_ISSUER")
    if issuer is None:
        return None
    client_id = _client("AUREUS_OIDC_CLIENT_ID", given("AUREUS_OIDC_CLIENT_ID"))
    if client_id is None:
        raise SettingsError("AUREUS_OIDC_CLIENT_ID", "the provider knows Aureus under no name.", "Name the client that was made there.")
    audience = _client("AUREUS_OIDC_AUDIENCE", given("AUREUS_OIDC_AUDIENCE"))
    roots = given("AUREUS_OIDC_TLS_ROOTS")
    if roots is not None and not Path(roots).is_file():
        raise SettingsError("AUREUS_OIDC_TLS_ROOTS", f"{roots} is not a file.", "Name the PEM file of the roots to believe.")
    tenant, tenant_claim = given("AUREUS_OIDC_TENANT"), _claim("AUREUS_OIDC_TENANT_CLAIM", given("AUREUS_OIDC_TENANT_CLAIM"))
    if tenant is not None and not TENANT.fullmatch(tenant):
        raise SettingsError("AUREUS_OIDC_TENANT", f"{tenant[:40]!r} cannot be a tenant's id.", "Write it as AUREUS_TENANT is written.")
    if tenant is not None and tenant_claim is not None:
        raise SettingsError("AUREUS_OIDC_TENANT_CLAIM", "AUREUS_OIDC_TENANT says whose people they are.", "Set one of the two.")
    return OidcPlace(
        issuer=https_url("AUREUS_OIDC_ISSUER", issuer),
        client_id=client_id,
        public_url=https_url("AUREUS_PUBLIC_URL", given("AUREUS_PUBLIC_URL") or f"http://127.0.0.1:{port}").rstrip("/"),
        name=given("AUREUS_OIDC_NAME") or OidcPlace.name,
        client_secret=_secret(given("AUREUS_OIDC_CLIENT_SECRET"), given("AUREUS_OIDC_CLIENT_SECRET_FILE")),
        cli_client_id=_client("AUREUS_OIDC_CLI_CLIENT_ID", given("AUREUS_OIDC_CLI_CLIENT_ID")),
        audience=audience,
        groups_claim=_claim("AUREUS_OIDC_GROUPS_CLAIM", given("AUREUS_OIDC_GROUPS_CLAIM")) or OidcPlace.groups_claim,
        tenant_claim=tenant_claim,
        tenant=tenant,
        algorithms=_algorithms(given("AUREUS_OIDC_ALGORITHMS")),
        tls_roots=Path(roots).absolute() if roots else None,
    )


def https_url(name: str, text: str) -> str:
    """The URL as it was given. Raises SettingsError unless nobody on the way can read or change what goes there."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError as error:
        raise SettingsError(name, f"it is not a URL: {error}.", "Write https://host[:port]/path.") from None
    safe = url.scheme == "https" or (url.scheme == "http" and url.hostname in _THIS_MACHINE)
    if not safe or not url.hostname or url.username or url.query or url.fragment or not text.isprintable() or " " in text:
        raise SettingsError(
            name, "it is not https://host[:port]/path, nor http:// on this machine.", "Write it as the provider's discovery document does."
        )
    return text


def _client(name: str, text: str | None) -> str | None:
    if text is not None and not _CLIENT.fullmatch(text):
        raise SettingsError(name, f"{text[:40]!r} cannot be what a provider calls a client.", "Use up to 200 ASCII characters, no spaces.")
    return text


def _claim(name: str, text: str | None) -> str | None:
    if text is not None and not _CLAIM.fullmatch(text):
        raise SettingsError(name, f"{text[:40]!r} cannot be the name of a claim.", "Write it as it stands in the token, such as groups.")
    return text


def _algorithms(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ALGORITHMS
    named = tuple(part.strip() for part in text.split(","))
    if unknown := [algorithm for algorithm in named if algorithm not in ALGORITHMS]:
        raise SettingsError("AUREUS_OIDC_ALGORITHMS", f"{unknown[0][:40]!r} is not accepted.", f"Name some of {', '.join(ALGORITHMS)}.")
    return named


def _secret(secret: str | None, file: str | None) -> str | None:
    return secret_in("AUREUS_OIDC_CLIENT_SECRET_FILE", Path(file), "secret") if secret is None and file is not None else secret
