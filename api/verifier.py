"""The program that verifies packs, for whoever has none yet: public, and better taken from somebody else than from us."""

from __future__ import annotations

from starlette.responses import Response

from api.routing import PUBLIC, ContextRouter
from infra.bundle_verifier import FILE, bundled

router = ContextRouter(tags=["proofs"])


@router.query("/v1/verifier", roles=PUBLIC, response_class=Response)
async def verifier() -> Response:
    """The stand-alone verifier, one file of Python: `python aureus_verify.py pack.zip --keys trust.json`."""
    headers = {"content-disposition": f'attachment; filename="{FILE.name}"'}
    return Response(bundled(), media_type="text/x-python; charset=utf-8", headers=headers)
