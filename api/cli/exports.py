"""`aureus export`: a pack for somebody outside, from the request to the verified file; and `aureus exports`: what was asked for."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Comment, Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, Output, when

app = typer.Typer()
exports = typer.Typer(help="Exports: what was asked for, by whom, for whom, and what became of it.", no_args_is_help=True)
app.add_typer(exports, name="exports")

VIEWS: Final = ("parquet", "openlineage", "prov", "ocsf", "cloudevents", "html", "pdf")
POLL_SECONDS: Final = 0.5
CHUNK_BYTES: Final = 256 * 1024
RESUMED_MAX: Final = 5
"""How often a download that breaks off is gone on with, while no byte came of it."""
_MAY_STILL_BE: Final = frozenset({ExitCode.WAITS_FOR_APPROVAL, ExitCode.UNREACHABLE})
ExportId = Annotated[str, typer.Argument(metavar="EXPORT", help="Its id, such as exp-1f2e3d4c.")]
Target = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the pack.")]
COLUMNS = (
    Column("export", "export_id"),
    Column("for", "recipient"),
    Column("status", "status"),
    Column("profile", lambda row: row["profile"]["name"]),
    Column("entries", "entries", right=True),
    Column("bytes", "size_bytes", right=True),
    Column("downloads", "downloads", right=True),
    Column("by", "requested_by"),
    when("at", "requested_at"),
)
PROPERTIES = ("recipient", "recipient_kind", "status", "everything", "selection", "profile", "views", "sha256", "size_bytes", "entries")
PROFILE_COLUMNS = (
    Column("profile", "name"),
    Column("shows values kept for", "disclose"),
    Column("holds back events", "withhold_types"),
    Column("by", "defined_by"),
)


@app.command()
def export(
    context: typer.Context,
    output: Target,
    recipient: Annotated[str, typer.Option("--recipient", metavar="WHO", help="Who it is for; it goes on record.")],
    dataset: Annotated[list[str] | None, typer.Option("--dataset", metavar="DATASET", help="What is about it; can be repeated.")] = None,
    agent: Annotated[list[str] | None, typer.Option("--agent", metavar="AGENT", help="What it did and what is about it.")] = None,
    actor: Annotated[list[str] | None, typer.Option("--actor", metavar="ACTOR", help="What this actor did.")] = None,
    policy: Annotated[list[str] | None, typer.Option("--policy", metavar="POLICY", help="What is about it, and what it judged.")] = None,
    jurisdiction: Annotated[
        list[str] | None, typer.Option("--jurisdiction", metavar="LAW", help="Only what stands, or may stand, under it: EU, UK, US, APAC.")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Only what happened from then on: 2026-04-01.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only what happened before then: 2026-07-01.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All there is, instead of a selection.")] = False,
    profile: Annotated[str, typer.Option("--profile", help="What the recipient is shown; see `aureus exports profiles`.")] = "regulator",
    kind: Annotated[str, typer.Option("--recipient-kind", help="regulator, auditor, internal or other.")] = "regulator",
    views: Annotated[str, typer.Option("--views", metavar="all|none|A,B", help=f"Told again as: {', '.join(VIEWS)}.")] = "all",
    artifacts: Annotated[bool, typer.Option("--artifacts", help="With the files that the actions rest on.")] = False,
) -> None:
    """Have a pack made, wait for it, fetch and check it. Run again after an interruption, it goes on where it was."""
    selection = {
        "datasets": dataset or [],
        "agents": agent or [],
        "actors": actor or [],
        "policies": policy or [],
        "jurisdictions": jurisdiction or [],
        "starts_at": _moment("--from", since),
        "ends_at": _moment("--to", until),
    }
    if not everything and not any(selection.values()):
        raise typer.BadParameter("Say what it is to hold, such as --dataset customers, or --everything.")
    request: Json = {
        "recipient": recipient,
        "recipient_kind": kind,
        "everything": everything,
        "selection": {name: value for name, value in selection.items() if value},
        "profile": profile,
        "views": _views(views),
        "artifacts": artifacts,
    }
    client, out = client_of(context), output_of(context)
    begun = _Begun.find(output, client, request)
    row = begun.known(client) or begun.ask(client)
    if row["status"] == "requested":
        row = _wait(client, out, begun.export_id)
    if row["status"] == "sealed":
        _download(client, out, row, output)
    begun.end()
    _require_sealed(row)
    _tell(out, row, output)


@exports.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="requested, sealed, failed or cancelled.")] = None,
    search: Search = None,
    sort: Sort = "-requested_at",
    limit: Limit = 50,
) -> None:
    """List exports, the latest first."""
    page = client_of(context).rows(path("exports"), limit, status=status, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "Nothing was exported.")


@exports.command()
def show(context: typer.Context, export_id: ExportId) -> None:
    """Show an export: what was asked for, how far it is, and who fetched it."""
    output_of(context).record(client_of(context).one(path("exports", export_id)), f"Export {export_id}", PROPERTIES)


@exports.command()
def cancel(context: typer.Context, export_id: ExportId, comment: Comment = None) -> None:
    """Give up an export that is not sealed yet."""
    result = client_of(context).ask(path("exports", export_id, "cancel"), {"comment": comment})
    output_of(context).done(result, f"Cancelled export {export_id}.")


@exports.command()
def download(context: typer.Context, export_id: ExportId, output: Target) -> None:
    """Fetch the pack of a sealed export and check it; an interrupted download is gone on with."""
    client, out = client_of(context), output_of(context)
    row = client.one(path("exports", export_id))
    _require_sealed(row)
    _download(client, out, row, output)
    _tell(out, row, output)


@exports.command()
def profiles(context: typer.Context) -> None:
    """List what each kind of recipient is shown."""
    output_of(context).rows(client_of(context).one(path("export-profiles")), PROFILE_COLUMNS)


@exports.command("define-profile")
def define_profile(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="Such as ecb-onsite.")],
    disclose: Annotated[list[str] | None, typer.Option("--disclose", metavar="PURPOSE", help="Show personal values kept for it.")] = None,
    withhold: Annotated[list[str] | None, typer.Option("--withhold", metavar="EVENT", help="Hold back events of this type.")] = None,
) -> None:
    """Say what a kind of recipient is shown."""
    body = {"profile": name, "disclose": disclose or [], "withhold_types": withhold or []}
    output_of(context).done(client_of(context).ask(path("export-profiles"), body), f"Profile {name} reads like this from now on.")


@dataclass(frozen=True)
class _Begun:
    """An export that was begun here, on record beside the file it is to become: run again, the same command goes on with it."""

    export_id: str
    request: Json
    record: Path

    @classmethod
    def find(cls, output: Path, client: Client, request: Json) -> _Begun:
        """The one that was begun with the same request at the same server, or that an approval was given for; else a new one."""
        record = output.with_name(f"{output.name}.export")
        said = {"url": client.url, "request": request}
        try:
            kept = json.loads(record.read_bytes())
        except (OSError, ValueError):
            kept = {}
        if {name: kept.get(name) for name in said} == said:
            return cls(kept["export_id"], request, record)
        export_id = _approved(client) or f"exp-{uuid.uuid4().hex[:12]}"
        try:
            record.write_text(json.dumps({**said, "export_id": export_id}))
        except OSError as error:
            raise typer.BadParameter(f"{output} cannot be written: {error.strerror}.", param_hint="--output") from error
        return cls(export_id, request, record)

    def known(self, client: Client) -> Json | None:
        try:
            return client.one(path("exports", self.export_id))
        except Failure as failure:
            if failure.exit_code is ExitCode.NOT_FOUND:
                return None
            raise

    def ask(self, client: Client) -> Json:
        try:
            client.ask(path("exports"), {"export_id": self.export_id, **self.request})
        except Failure as failure:
            if failure.exit_code not in _MAY_STILL_BE:
                self.end()
            raise
        return client.one(path("exports", self.export_id))

    def end(self) -> None:
        self.record.unlink(missing_ok=True)


def _approved(client: Client) -> str | None:
    """The export that an approval is about: it covers that one and no other."""
    if client.said.approval is None:
        return None
    inputs: Json = client.one(path("approvals", client.said.approval)).get("inputs") or {}
    return inputs.get("export_id")


def _wait(client: Client, out: Output, export_id: str) -> Json:
    """Until the pack is written, or not."""
    with out.progress() as report:
        while True:
            row = client.one(path("exports", export_id))
            if row["status"] != "requested":
                return row
            if progress := row["progress"]:
                report(progress["phase"], progress["done"], progress["total"])
            time.sleep(POLL_SECONDS)


def _require_sealed(row: Json) -> None:
    if row["status"] == "sealed":
        return
    code, why = row["failure_code"] or f"export_{row['status']}", row["failure"] or f"it is {row['status']}"
    remedy = "Wait until it is sealed: `aureus exports show` tells." if row["status"] == "requested" else "Ask for it again."
    raise Failure(ExitCode.REFUSED, code, f"There is no pack of export {row['export_id']}: {why}", remedy=remedy)


def _download(client: Client, out: Output, row: Json, target: Path) -> None:
    """Writes beside the target, goes on after what breaks off, and renames once every byte is the one that was sealed."""
    partial = target.with_name(f"{target.name}.partial")
    begun_before = partial.exists()
    _fetch_all(client, out, row, partial)
    if begun_before and _sha256(partial) != row["sha256"]:
        partial.unlink()  # what lay there was of another pack
        _fetch_all(client, out, row, partial)
    if (found := _sha256(partial)) != row["sha256"]:
        partial.unlink()
        message = f"What came is not the pack that was sealed: {found} came, {row['sha256']} was sealed."
        raise Failure(ExitCode.NOT_VERIFIED, "pack_tampered", message, remedy="Look who is between you and the server, and fetch it again.")
    partial.replace(target)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _fetch_all(client: Client, out: Output, row: Json, partial: Path) -> None:
    size, failed = row["size_bytes"], 0
    with out.progress() as report:
        while (there := partial.stat().st_size if partial.exists() else 0) < size:
            try:
                _fetch(client, row, partial, there, report)
            except Failure as failure:
                failed = failed + 1 if partial.exists() and partial.stat().st_size == there else 0
                if failure.exit_code is not ExitCode.UNREACHABLE or failed >= RESUMED_MAX:
                    raise
                time.sleep(POLL_SECONDS)


def _fetch(client: Client, row: Json, partial: Path, there: int, report: Any) -> None:
    headers = {"Range": f"bytes={there}-", "If-Range": f'"{row["sha256"]}"'} if there else {}
    with client.streamed(path("exports", row["export_id"], "pack"), headers) as response:
        begun = there if response.status_code == 206 else 0
        with partial.open("r+b" if begun else "wb") as file:
            file.seek(begun)
            done = begun
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                report("downloading", done, row["size_bytes"])


def _tell(out: Output, row: Json, target: Path) -> None:
    if out.as_json:
        return out.json({**row, "file": str(target)})
    held = f"{row['withheld_entries']} of them held back" if row["withheld_entries"] else "none held back"
    out.text(f"{target}: {row['size_bytes']:,} bytes, {row['entries']} events, {held}.")
    out.text(f"  sha256  {row['sha256']}")
    out.text("It is what was sealed. Whoever gets it verifies it without us, with a trust file from `aureus trust export`:")
    out.text(f"  python aureus_verify.py {target.name} --keys trust.json")
    return None


def _views(text: str) -> list[str]:
    if text in ("all", "none"):
        return list(VIEWS) if text == "all" else []
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in VIEWS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(VIEWS)}.", param_hint="--views")
    return named


def _moment(option: str, text: str | None) -> str | None:
    """A day or a time, in UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a day nor a time: write 2026-04-01 or 2026-04-01T12:00:00Z.", param_hint=option
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
