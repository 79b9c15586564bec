"""`aureus backup`, `restore` and `backups`: a copy of all that cannot be made again, the way back, and what is on record of both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli.client import path
from api.cli.failures import ExitCode, Failure
from api.cli.fsck import database
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, Output, when
from api.cli.service import setup_checked

if TYPE_CHECKING:
    from api.backing_up import Examined
    from infra.backup.erasures import Erasure
    from infra.backup.manifest import Manifest
    from infra.settings import Settings

app = typer.Typer()
backups = typer.Typer(help="Backups on record: taken here, or what this ledger was put back from.", no_args_is_help=True)
app.add_typer(backups, name="backups")

COLUMNS = (
    Column("backup", "backup_id"),
    Column("status", "status"),
    when("begun", "begun_at"),
    Column("events", "size", right=True),
    Column("bytes", "size_bytes", right=True),
    Column("keys", "keys"),
)
PROPERTIES = ("status", "begun_at", "taken_at", "restored_at", "size", "root", "sha256", "size_bytes")
BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="Holds the passphrase of the keys in it; mode 0600.")
]
_DAMAGED: Final = "Nothing was changed. Use another copy of it, or an older backup."


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to be written; it must not be there yet.")],
    with_keys: Annotated[bool, typer.Option("--with-keys", help="With the private keys, sealed under a passphrase.")] = False,
    with_blobs: Annotated[bool, typer.Option("--with-blobs", help="With the artifacts, also when they lie in a bucket.")] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Back the ledger up, on the machine that holds it, whether Aureus runs or not. It goes on meanwhile."""
    from api.backing_up import back_up
    from infra.settings import Settings

    out = output_of(context)
    passphrase = _passphrase(passphrase_file, fresh=True) if with_keys else None
    with setup_checked(), database() as dsn, out.progress() as report:
        done = asyncio.run(back_up(Settings.from_environment(), dsn, file, passphrase, with_blobs=with_blobs, report=report))
    said, taken = done.taken.manifest, done.taken
    if out.as_json:
        written = {"file": str(file), "sha256": taken.sha256, "size_bytes": taken.size_bytes}
        out.json({**_summary(said), **written, "unrecorded": done.unrecorded})
    else:
        out.text(f"{file}: {taken.size_bytes:,} bytes, {said.size:,} events of {said.ledger}{_with(said)}.")
        out.text(f"  sha256  {taken.sha256}")
    for damaged in said.damaged:
        out.note(f"{damaged} is not what its name says where it is kept, and is not in the backup.")
    if said.keys_sha256 is None:
        out.note("The private keys are not in it: keep `keys/` apart from it, and as safe. Without them nothing can be restored.")
    if said.blobs is None:
        out.note("The artifacts lie in a bucket and are not in it: have the bucket keep versions, or use --with-blobs.")
    if done.unrecorded:
        out.note(f"The ledger has no record of this backup: {done.unrecorded}")


@app.command()
def restore(
    context: typer.Context,
    file: BackupFile,
    erasures: Annotated[
        list[Path] | None,
        typer.Option("--erasures", metavar="FILE", exists=True, dir_okay=False, help="Certificates of later erasures; can be repeated."),
    ] = None,
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Verify the backup, and restore nothing; needs no database.")] = False,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", exists=True, dir_okay=False, help="Trust file: the root key and the witnesses you trust."),
    ] = None,
    root_key: Annotated[str | None, typer.Option("--root-key", metavar="KEY_ID", help="The root key's id, from whoever you trust.")] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", metavar="FILE", exists=True, dir_okay=False, help="One you kept: shows what is lost."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Put a ledger back into an empty home or database, after every byte of the backup was verified."""
    from api.backing_up import erasures_in, examine, keys_for
    from api.backing_up import restore as put_back
    from infra.settings import Settings
    from infra.verifier.main import WrongCommand, read_kept, read_trust

    out = output_of(context)
    try:
        trust, kept = read_trust(keys, root_key), read_kept(checkpoint or [])
    except WrongCommand as error:
        raise Failure(ExitCode.USAGE, "invalid_parameter", f"{error}.") from error
    with setup_checked(), _readable(), out.progress() as report:
        examined = examine(file, trust, kept, report)
        _require_verified(examined)
        certified = erasures_in(erasures or [], examined)
        if not verify_only:
            settings = Settings.from_environment()
            sealed = examined.backup.manifest.keys_sha256 is not None and not settings.keys_dir.exists()
            passphrase = _passphrase(passphrase_file, fresh=False) if sealed else None
            found = keys_for(settings, examined, passphrase)
            with _target(settings) as dsn:
                asyncio.run(put_back(settings, dsn, examined, certified, found, report))
    _tell(out, examined, certified, restored=not verify_only)


@backups.command("list")
def list_(context: typer.Context, search: Search = None, sort: Sort = "-begun_at", limit: Limit = 50) -> None:
    """List the backups that are on record, the latest first."""
    page = client_of(context).rows(path("backups"), limit, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "No backup is on record.")


@backups.command()
def show(context: typer.Context, backup_id: Annotated[str, typer.Argument(metavar="BACKUP", help="Its id, as `list` shows it.")]) -> None:
    """Show a backup: when it was taken, what it holds, and its SHA-256."""
    output_of(context).record(client_of(context).one(path("backups", backup_id)), f"Backup {backup_id}", PROPERTIES)


@contextmanager
def _target(settings: Settings) -> Iterator[str]:
    """Where a ledger is put back: the database that is named, or an embedded PostgreSQL that is this process's alone."""
    from infra.embedded import embedded_postgres

    if settings.database_url is not None:
        yield settings.database_url
        return
    with embedded_postgres(settings.postgres_dir) as dsn:
        yield dsn


def _passphrase(file: Path | None, *, fresh: bool) -> str:
    """From the file, or asked for on the terminal."""
    from infra.backup.sealed_keys import LENGTH_MIN
    from infra.secret_files import secret_in
    from infra.settings import SettingsError

    with setup_checked():
        if file is not None:
            passphrase = secret_in("--passphrase-file", file, "passphrase")
        else:
            passphrase = str(typer.prompt("Passphrase of the keys in the backup", hide_input=True, confirmation_prompt=fresh, err=True))
        if fresh and len(passphrase) < LENGTH_MIN:
            raise SettingsError("--passphrase-file", f"a passphrase has {LENGTH_MIN} characters or more.", "Use several words.")
    return passphrase


@contextmanager
def _readable() -> Iterator[None]:
    """What is wrong with a file is said, and nothing comes of it."""
    from infra.backup.erasures import BadErasures
    from infra.backup.reading import BadBackup
    from infra.backup.sealed_keys import WrongPassphrase

    try:
        yield
    except BadBackup as error:
        raise Failure(ExitCode.NOT_VERIFIED, "backup_damaged", f"This backup is not whole. {error}.", remedy=_DAMAGED) from error
    except BadErasures as error:
        remedy = "Nothing was changed. Have it written again: aureus subjects certificates --export FILE"
        raise Failure(ExitCode.NOT_VERIFIED, "erasures_invalid", f"{error}.", remedy=remedy) from error
    except WrongPassphrase as error:
        raise Failure(ExitCode.USAGE, "passphrase_wrong", f"{error}.", remedy="Give the one it was taken with.") from error


def _require_verified(examined: Examined) -> None:
    result = examined.result
    if not result.ok:
        message = f"{len(result.problems) + result.untold} checks of this backup failed; the first at {result.problems[0]}"
        problems = [str(problem) for problem in result.problems]
        raise Failure(ExitCode.NOT_VERIFIED, "backup_not_verified", message, problems=problems, remedy=_DAMAGED)


def _tell(out: Output, examined: Examined, erasures: list[Erasure], *, restored: bool) -> None:
    said, result = examined.backup.manifest, examined.result
    if out.as_json:
        summary = {**_summary(said), "ok": True, "restored": restored, "erasures": len(erasures), "lost": examined.lost}
        return out.json({**summary, "verification": result.as_json()})
    for sentence in result.sentences():
        (out.note if sentence.startswith("Note: ") else out.text)(sentence)
    out.text(f"Backup {said.backup_id} of {said.at[:19].replace('T', ' ')} is whole{_with(said)}.")
    if restored:
        again = f", {len(erasures)} erasures carried out again" if erasures else ""
        out.text(f"Restored {said.ledger} as it was at position {said.size}{again}. Start it with `aureus serve`.")
        _warn(out, examined, erasures)
    return None


def _warn(out: Output, examined: Examined, erasures: list[Erasure]) -> None:
    """What it means that a ledger is older than it was."""
    if examined.lost:
        out.note(f"{examined.lost} events after position {examined.backup.manifest.size} are lost: the checkpoint you kept proves it.")
    out.note(
        "Whatever came after the backup is not here, and whoever holds a later checkpoint can prove that. A witness that cosigned one "
        "keeps this ledger from being written to, until the operators' guide was followed (docs/operators.md, Backup and restore)."
    )
    if erasures:
        out.note("The certificates of those erasures are not in this ledger: order them again, so that it certifies them itself.")
    else:
        out.note("If anybody was erased after the backup, their values are back: restore once more with --erasures FILE.")


def _summary(said: Manifest) -> dict[str, object]:
    return {
        "backup_id": said.backup_id,
        "ledger": said.ledger,
        "size": said.size,
        "root": said.root,
        "at": said.at,
        "artifacts": None if said.blobs is None else said.blobs.count,
        "packs": said.packs.count,
        "with_keys": said.keys_sha256 is not None,
        "damaged": said.damaged,
    }


def _with(said: Manifest) -> str:
    parts = [f"{said.blobs.count} artifacts"] if said.blobs and said.blobs.count else []
    parts += [f"{said.packs.count} packs"] if said.packs.count else []
    parts += ["the private keys"] if said.keys_sha256 is not None else []
    return f", with {' and '.join(parts)}" if parts else ""
