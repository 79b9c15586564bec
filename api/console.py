"""The console: a few static pages that use the same API as everybody else, with no build step and nothing fetched from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from fastapi import Header
from starlette.responses import Response

from api.errors import ApiError
from api.routing import PUBLIC, ContextRouter

FOLDER: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SECURITY: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    # No script may write text as markup, ours included: what people called their data stays text.
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
SECURITY_POLICY: Final = "; ".join(_SECURITY)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the console, read once when the program starts."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> StaticFile:
        content = path.read_bytes()
        return cls(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, known_etag: str | None) -> Response:
        headers = {
            "etag": self.etag,
            "cache-control": "no-cache",
            "content-security-policy": SECURITY_POLICY,
            "cross-origin-opener-policy": "same-origin",
            "referrer-policy": "no-referrer",
        }
        if known_etag is not None and known_etag.removeprefix("W/") == self.etag:  # compressed, its tag is weak
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


FILES: Final = {path.name: StaticFile.read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}
"""What is served: these names and no path, so no request reaches another file."""

KnownEtag = Annotated[str | None, Header(alias="if-none-match")]
router = ContextRouter(tags=["console"], include_in_schema=False)


@router.query("/", roles=PUBLIC)
async def index(known_etag: KnownEtag = None) -> Response:
    """The console's one page."""
    return FILES[INDEX].answer(known_etag)


@router.query("/console/{name}", roles=PUBLIC)
async def static_file(name: str, known_etag: KnownEtag = None) -> Response:
    """A script or style of the console."""
    file = FILES.get(name)
    if file is None:
        raise ApiError(404, "not_found", f"The console has no file {name!r}.", field="name", remedy="Open / instead.")
    return file.answer(known_etag)
