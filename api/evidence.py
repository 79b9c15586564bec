"""Evidence over REST: the audit log, the pack of every action as JSON or Markdown, sealed if asked for, and its artifacts."""

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import orjson
from fastapi import Header, Path, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from api.asking import CommandAnswer, ask_of, require_stored, told
from api.errors import ApiError
from api.routing import ContextRouter, Reader, Reading
from api.services import Services
from commands.evidence import RegisterArtifact, SealPack
from domain.evidence import ArtifactKind
from domain.kernel import Command, JsonObject
from domain.values import EVERYBODY, Identifier, Label, Role
from infra.blobs import Blob, BlobMissing, BlobsUnavailable, BlobTampered, BlobTooLarge
from infra.canonical import canonical
from projections.approvals import ApprovalRow, approvals
from projections.engine import read_row
from projections.evidence import ArtifactRow, EvidencePackRow, actions, artifacts, pack_of, packs
from projections.subjects import certificates

Form = Literal["json", "markdown"]
MEDIA_TYPES: Final[dict[Form, str]] = {"json": "application/json", "markdown": "text/markdown"}

ARTIFACT_READERS: Final = EVERYBODY - {Role.VIEWER}
"""Artifacts may hold what a viewer may not see, such as the rows that a check found wrong."""

_MARKUP: Final = re.compile(r"[\\`*\[\]<>|#!&~]|(?<![^\W_])_|_(?![^\W_])|:(?=//)")
"""What Markdown could take for markup: all of it, but for an underscore within a word."""


@read_row
class EvidencePack(EvidencePackRow):
    """The sealed pack, joined with what is known of its artifacts and of the approval it names.

    `files` are the artifacts that are registered here, `tests` those of them that are test results.
    """

    tests: list[ArtifactRow]
    files: list[ArtifactRow]
    approval: ApprovalRow | None


class StoredArtifact(CommandAnswer):
    """The command's answer, and the hash under which the bytes are kept from now on."""

    sha256: str
    size_bytes: int


class SealedPack(CommandAnswer):
    """The command's answer, and the hashes under which the two documents are kept from now on."""

    json_sha256: str
    json_bytes: int
    markdown_sha256: str
    markdown_bytes: int


router = ContextRouter(tags=["evidence"])
router.views("/v1/actions", actions, row_id="action_id", roles=EVERYBODY)


@router.query("/v1/evidence/{action_id}", roles=EVERYBODY, narrowed=True, recorded=True, response_model=EvidencePack, name="evidence_pack")
async def evidence_pack(
    action_id: str,
    reader: Reading,
    chosen: Annotated[Form | None, Query(alias="format", description="Otherwise Accept decides.")] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """The evidence of an action, as JSON or, with `Accept: text/markdown`, as a document for people: as it was sealed, if it was."""
    form: Form = chosen or ("markdown" if "text/markdown" in accept else "json")
    sealed = await reader.get(packs, action_id)
    if sealed is not None:
        sha256 = sealed[f"{form}_sha256"]
        headers = {"etag": f'"{sha256}"', "vary": "accept", "content-length": str(sealed[f"{form}_bytes"])}
        return StreamingResponse(await _verified(reader.services, sha256), headers=headers, media_type=MEDIA_TYPES[form])
    pack = await _pack(reader, action_id)
    headers = {"etag": f'"{pack["signature"]["position"]}"', "vary": "accept"}
    return Response(document(pack, form), headers=headers, media_type=MEDIA_TYPES[form])


@router.query("/v1/evidence/{action_id}/seal", roles=SealPack.roles, methods=("POST",), status_code=201, response_model=SealedPack)
async def seal_evidence(action_id: Annotated[Identifier, Path()], request: Request) -> Response:
    """Keep the evidence of an action for ever, as it stood when the action ended: JSON and Markdown, each under its SHA-256."""
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    recorded = await services.ledger.read_stream(asker.tenant, f"action:{action_id}")
    if not recorded:
        raise _no_evidence(action_id)
    # Whoever seals it, and whenever: read as of the action's own position, it comes to the same bytes.
    position = recorded[-1].position
    await services.wait_for(position)
    pack = await _pack(Reader(services, asker, position), action_id)
    as_json = await _kept(services, _whole(document(pack, "json")))
    as_markdown = await _kept(services, _whole(document(pack, "markdown")))
    command = SealPack(
        action_id=action_id,
        position=position,
        json_sha256=as_json.sha256,
        json_bytes=as_json.size_bytes,
        markdown_sha256=as_markdown.sha256,
        markdown_bytes=as_markdown.size_bytes,
    )
    return await _settled(request, command, command.model_dump(exclude={"action_id", "position"}), f"/v1/packs/{action_id}")


async def _pack(reader: Reader, action_id: str) -> JsonObject:
    entry = await reader.get(actions, action_id)
    if entry is None:
        raise _no_evidence(action_id)
    row = asdict(pack_of(entry))
    known = await reader.many(artifacts, row["artifacts"])
    files = [known[sha256] for sha256 in row["artifacts"] if sha256 in known]
    approval = await reader.get(approvals, row["approval_id"]) if row["approval_id"] else None
    return {**row, "tests": [file for file in files if file["kind"] == "test_result"], "files": files, "approval": approval}


def _no_evidence(action_id: str) -> ApiError:
    message = f"There is no evidence of an action {action_id!r}."
    return ApiError(404, "evidence_not_found", message, field="action_id", remedy="Use the action_id that a command's answer names.")


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


@router.query(
    "/v1/artifacts", roles=RegisterArtifact.roles, narrowed=True, methods=("POST",), status_code=201, response_model=StoredArtifact
)
async def store_artifact(
    request: Request,
    name: Annotated[Label, Query(description="What to call it.")],
    kind: Annotated[ArtifactKind, Query(description="What it is.")] = "file",
    passed: Annotated[int | None, Query(ge=0, description="Of a test_result: how many checks passed.")] = None,
    failed: Annotated[int | None, Query(ge=0, description="Of a test_result: how many checks failed.")] = None,
) -> Response:
    """Keep the body's bytes under their SHA-256, for commands to name in `Aureus-Evidence`."""
    blob = await _kept(request.app.state.services, request.stream())
    command = RegisterArtifact(
        sha256=blob.sha256,
        size_bytes=blob.size_bytes,
        media_type=request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower(),
        name=name,
        kind=kind,
        passed=passed,
        failed=failed,
    )
    return await _settled(request, command, {"sha256": blob.sha256, "size_bytes": blob.size_bytes}, f"/v1/artifacts/{blob.sha256}")


async def _settled(request: Request, command: Command, stored: JsonObject, location: str) -> Response:
    """What became of a command about bytes that are stored, told together with what was stored."""
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    ask = ask_of(command, asker, request.scope["headers"])
    await require_stored(services, ask)
    answer = told(await services.path.handle(ask), 201, request.scope["state"]["request_id"])
    headers = {"etag": answer.headers["etag"], "location": location}
    return Response(orjson.dumps({**orjson.loads(answer.body), **stored}), answer.status_code, headers, "application/json")


async def _kept(services: Services, chunks: AsyncIterable[bytes]) -> Blob:
    try:
        return await services.blobs.put(chunks)
    except BlobTooLarge as error:
        remedy = "Split it, or keep it elsewhere and store a document that names it by its hash."
        raise ApiError(413, "artifact_too_large", str(error), field="body", limit_bytes=error.limit_bytes, remedy=remedy) from None
    except ClientDisconnect:
        raise ApiError(400, "client_gone", "The request ended before its body did.") from None
    except BlobsUnavailable as error:
        raise _unavailable(error) from error


async def _verified(services: Services, sha256: str) -> AsyncIterator[bytes]:
    """Bytes that are kept, verified against their hash before the first of them is given out."""
    try:
        return await services.blobs.read(sha256)
    except BlobMissing as error:
        raise ApiError(500, "artifact_lost", str(error), sha256=sha256) from None
    except BlobTampered as error:
        raise ApiError(500, "artifact_tampered", str(error), sha256=sha256, found=error.found) from None
    except BlobsUnavailable as error:
        raise _unavailable(error) from error


def _unavailable(error: BlobsUnavailable) -> ApiError:
    return ApiError(503, "artifact_store_unavailable", str(error), {"retry-after": "1"}, remedy=error.remedy)


@router.query("/v1/artifacts/{sha256}", roles=ARTIFACT_READERS, response_model=None, name="artifact_content")
async def artifact_content(sha256: str, reader: Reading) -> StreamingResponse:
    """The bytes of an artifact, verified against their hash before the first of them is sent."""
    row = await reader.get(artifacts, sha256)
    if row is None:
        message = f"There is no artifact {sha256!r}."
        raise ApiError(404, "artifact_not_found", message, field="sha256", remedy="List them to see what is there.")
    try:
        chunks = await _verified(reader.services, sha256)
    except ApiError as error:
        raise await _erased(reader, sha256, error) from error
    headers = {
        "content-length": str(row["size_bytes"]),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(row['name'], safe='')}",
        "content-security-policy": "sandbox",  # what somebody stored is never run as if it were ours
        "etag": f'"{sha256}"',
        "cache-control": "private, immutable",
    }
    return StreamingResponse(chunks, headers=headers, media_type=row["media_type"])


async def _erased(reader: Reader, sha256: str, lost: ApiError) -> ApiError:
    """Bytes that are not there may have been destroyed on purpose: a certificate says so, whatever moment was asked for."""
    found = await replace(reader, as_of=None).find(certificates, {"artifacts": sha256}) if lost.code == "artifact_lost" else []
    if not found:
        return lost
    certificate = max(int(row["position"]) for row in found)
    message = f"Artifact {sha256} held data about somebody who was erased, and is destroyed."
    remedy = "Its hash stays on record: whoever still has the bytes can prove what they were."
    return ApiError(410, "artifact_erased", message, field="sha256", certificate=certificate, remedy=remedy)


# A view's own route by id would stand in the way of these, so the lists come after them.
router.views("/v1/artifacts", artifacts, row_id=None, roles=ARTIFACT_READERS)
router.views("/v1/packs", packs, row_id="action_id", roles=EVERYBODY)


def document(pack: JsonObject, form: Form) -> bytes:
    """A pack as a document: the same pack comes to the same bytes, its JSON being canonical."""
    return canonical(pack) if form == "json" else markdown(pack).encode()


def markdown(pack: JsonObject) -> str:
    """A pack as a document for people; every value that somebody typed is escaped, so it cannot pose as the document."""
    sections = (
        [f"# Evidence of action {pack['id']}", "", _headline(pack), "", *_circumstances(pack)],
        _section("Intent", ("Field", "Value"), [(name, value) for name, value in sorted(pack["inputs"].items())], "Nothing was given."),
        _section(
            "Policy results",
            ("Policy", "Answer", "Reason"),
            [(check["policy"], check["outcome"], check["reason"]) for check in pack["policyChecks"]],
            "No policy was consulted: the action was refused before.",
        ),
        _section(
            "Outputs",
            ("Event", "Stream", "Version"),
            [(output["type"], output["stream"], output["version"]) for output in pack["outputs"]],
            "Nothing changed.",
        ),
        _approval_section(pack["approval"]) if pack["approval"] else [],
        _section(
            "Tests",
            ("Result", "Passed", "Failed", "SHA-256"),
            [(test["name"], test["passed"], test["failed"], test["sha256"]) for test in pack["tests"]],
            "No test result was given as evidence.",
        ),
        _section(
            "Artifacts",
            ("SHA-256", "Name", "Kind", "Bytes"),
            _artifact_rows(pack),
            "No artifact was given as evidence.",
        ),
        _how_to_verify(pack),
    )
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _headline(pack: JsonObject) -> str:
    ended = {"allowed": "was **allowed**", "blocked": "was **blocked**", "requires_approval": "was **parked** until it is approved"}
    return f"`{pack['eventType']}` on `{pack['stream']}` {ended[pack['outcome']]}."


def _circumstances(pack: JsonObject) -> list[str]:
    rows: list[tuple[Any, ...]] = [
        ("When", pack["timestamp"]),
        ("Who", f"{pack['actor']} ({pack['kind']}; {', '.join(pack['roles']) or 'no role'})"),
        ("Why", pack["reason"] or "no reason was given"),
        ("Version it saw", pack["seen_version"]),
        ("Policy version", pack["policy_version"]),
        ("Action digest", pack["action_digest"]),
    ]
    if pack["code"]:
        rows.append(("Refused because", f"{pack['message']} ({pack['code']})"))
    rows += [(f"Fact: {name}", value) for name, value in sorted((pack["facts"] or {}).items())]
    return _table(("", ""), rows)


def _approval_section(approval: JsonObject) -> list[str]:
    """Who consented; as it stood at the moment the reader asked for."""
    decisions = [(d["at"], d["approver"], ", ".join(d["roles"]), d["decision"], d["comment"] or "") for d in approval["decisions"]]
    return [
        "## Approval",
        "",
        f"{_text(approval['approval_id'])}: {approval['status']}; {approval['agreed_count']} of {approval['quorum']} agreed.",
        "",
        *(_table(("When", "Who", "Roles", "Decision", "Comment"), decisions) if decisions else ["Nobody has decided yet."]),
    ]


def _artifact_rows(pack: JsonObject) -> list[tuple[Any, ...]]:
    known = {file["sha256"]: file for file in pack["files"]}
    unknown = {"name": "(not registered here)", "kind": "", "size_bytes": ""}
    return [(sha256, *(known.get(sha256, unknown)[name] for name in ("name", "kind", "size_bytes"))) for sha256 in pack["artifacts"]]


def _how_to_verify(pack: JsonObject) -> list[str]:
    sealed = pack["signature"]
    position = sealed["position"]
    return [
        "## How to verify",
        "",
        f"One signed event seals this pack: {sealed['event_id']}, at position {position} of the ledger, with the leaf hash",
        "",
        f"    {sealed['leaf']}",
        "",
        f"1. Fetch its entry with `GET /v1/ledger/entries?after={position - 1}&limit=1`. SHA-256 over a zero byte and the entry",
        "   is that leaf; the entry holds the actor, the intent, the policy results, the outputs and the signature over them.",
        f"2. The leaf has index {position - 1} in the tree whose root the signed checkpoint names (`GET /v1/ledger/checkpoint`).",
        "   `aureus verify` checks every signature, every link and the tree.",
        "3. Each artifact hashes to its own name: `GET /v1/artifacts/<sha256>`, then `sha256sum`.",
        "",
        "Personal data is no part of a pack.",
    ]


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], nothing: str) -> list[str]:
    return [f"## {title}", "", *(_table(columns, rows) if rows else [nothing])]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([_text(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _text(value: Any) -> str:
    """A value as one line of plain text in Markdown: no markup of its own, no way out of its cell."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
