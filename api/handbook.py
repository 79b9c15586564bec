"""The API's own reference at /docs: Swagger UI from a package, so that it opens without a network."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from api.errors import ApiError
from api.routing import PUBLIC, ContextRouter

_STATIC: Final = files("fastapi_offline") / "static"
_MEDIA_TYPES: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_FILES: Final = {name: (_STATIC / name).read_bytes() for name in _MEDIA_TYPES}
router = ContextRouter(include_in_schema=False)


@router.query("/docs", roles=PUBLIC)
async def reference() -> HTMLResponse:
    """The reference, from /openapi.json."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Aureus API",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "docExpansion": "none"},
    )
    page.headers["content-security-policy"] = _security_policy(bytes(page.body).decode())
    return page


def _security_policy(page: str) -> str:
    """Its own scripts alone, and the one within the page, which is known by its hash. Swagger UI styles what it draws itself."""
    inline = "".join(re.findall(r"<script>(.*?)</script>", page, re.DOTALL))
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@router.query("/docs/{name}", roles=PUBLIC)
async def static_file(name: str) -> Response:
    """A script or style of the reference."""
    if name not in _FILES:
        raise ApiError(404, "not_found", f"The reference has no file {name!r}.", field="name", remedy="Open /docs instead.")
    return Response(_FILES[name], media_type=_MEDIA_TYPES[name], headers={"cache-control": "max-age=86400"})
