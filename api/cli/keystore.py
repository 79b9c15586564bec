"""`aureus keys`, the part without a server: key files, the root that goes offline, keys of one's own, and keys in a token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.client import Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, json_of, output_of
from api.cli.output import Column, Output, when

if TYPE_CHECKING:
    from infra.key_files import FileSigner, OfflineRoot, Signer
    from infra.pkcs11_keys import Pkcs11Keys

app = typer.Typer()
pkcs11 = typer.Typer(
    help="Keys in a PKCS#11 token (an HSM), as AUREUS_PKCS11_MODULE and AUREUS_PKCS11_TOKEN name it.", no_args_is_help=True
)
app.add_typer(pkcs11, name="pkcs11")

FILE_COLUMNS = (Column("role", "role"), Column("key", "key"), Column("state", "state"), when("made", "created"), Column("file", "file"))
TOKEN_COLUMNS = (Column("role", "role"), Column("label", "label"), Column("key id", "key_id"))


class OwnRole(StrEnum):
    """The roles of keys that are nobody's but their holder's."""

    ACTOR = "actor"
    WITNESS = "witness"
    ROOT = "root"


class TokenRole(StrEnum):
    """The roles of the ledger's own keys."""

    ROOT = "root"
    LOG = "log"
    SERVICE = "service"


@app.command("list-files")
def list_files(context: typer.Context) -> None:
    """List the key files of this machine's AUREUS_HOME; of their secrets, nothing is shown."""
    with _checked():
        page = {"items": list(_files(_keys_dir(context)))}
    output_of(context).rows(page, FILE_COLUMNS)


@app.command("offline-root")
def offline_root(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Where to, on what you take away; it must not be there yet.")],
) -> None:
    """Take the root's private key out of AUREUS_HOME: into a file, read back before it is removed; its public part stays."""
    from infra.keystore import take_root_offline

    with _checked():
        root = take_root_offline(_keys_dir(context), to)
    out = output_of(context)
    out.done({"key_id": root.key_id, "file": str(to)}, f"The root key {root.key_id[:16]} was moved into {to}. Take that away.")
    out.note("A server that runs has it in memory until it is started again, and backups may have it too.")


@app.command("online-root")
def online_root(
    context: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="What `aureus keys offline-root` wrote.")]
) -> None:
    """Put the root's private key back into AUREUS_HOME; the file stays as it is."""
    from infra.keystore import bring_root_online

    with _checked():
        root = bring_root_online(_keys_dir(context), file)
    output_of(context).done({"key_id": root.key_id}, f"The root key {root.key_id[:16]} is back; a server knows when it is started again.")


@app.command()
def new(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The key file to be written, mode 0600.")],
    role: Annotated[OwnRole, typer.Option("--role", help="What it is for.")] = OwnRole.ACTOR,
    holder: Annotated[
        str | None, typer.Option("--holder", metavar="TENANT/ACTOR|WITNESS", help="Whose it is; nobody's, a root key.")
    ] = None,
    ledger: Annotated[str | None, typer.Option("--ledger", metavar="NAME", help="The ledger's name; the server's when not given.")] = None,
) -> None:
    """Make a key of one's own, and print the request that lets it in: its public part, and the proof that its holder has it."""
    import os
    from datetime import UTC, datetime

    from infra.key_files import SEED_BYTES, FileSigner, write_key

    if (holder is None) != (role is OwnRole.ROOT):
        raise typer.BadParameter("an actor's and a witness's key has a holder, a root key has none.", param_hint="--holder")
    client = client_of(context)
    if ledger is None and role is not OwnRole.ROOT:
        ledger = str(client.one(path("ledger", "keys"))["ledger"])
    created = datetime.now(UTC).isoformat(timespec="seconds")
    signer = FileSigner.from_seed(role.value, os.urandom(SEED_BYTES), created, "client", holder)
    with _checked():
        write_key(output, signer)
    client.out.note(f"The key {signer.key_id[:16]} is in {output}: keep it to yourself, and a copy of it in a safe place.")
    if ledger is None:
        client.out.note("It takes over from the root key there is with `aureus keys rotate OLD NEW --role root`.")
    else:
        _print(client.out, _request(signer, ledger))


@app.command()
def authorise(
    context: typer.Context,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="What `aureus keys new` printed; - is standard input.")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The root key's file; the token's root key when not given.")
    ] = None,
) -> None:
    """Let a key in, with the root key, on a machine that need not see the server: prints the request with the authorisation."""
    import base64

    document = json_of(request)
    statement = _proven(document)
    with _checked():
        root = _root(key)
        signed = {"authorised_by": root.key_id, "authorisation": base64.b64encode(root.sign(statement)).decode()}
    out = output_of(context)
    out.note("Signed with the root key " + root.key_id[:16] + ":\n  " + "\n  ".join(statement.decode().splitlines()))
    _print(out, {**document, **signed})


@pkcs11.command("generate")
def generate(context: typer.Context, role: Annotated[TokenRole, typer.Option("--role", help="What the key will sign.")]) -> None:
    """Make a key in the token that never leaves it; a new ledger begins with it, one that exists is rotated to it."""
    from infra.pkcs11_keys import label_of

    with _checked():
        signer = _token().generate(role.value)
    row = {"role": role.value, "label": label_of(role.value), "key_id": signer.key_id, "public": signer.public.hex()}
    output_of(context).done(row, f"The token has a new key {row['label']}: {signer.key_id}")


@pkcs11.command("list")
def list_tokens(context: typer.Context) -> None:
    """List the ledger's keys in the token."""
    from infra.keystore import LEDGER_ROLES
    from infra.pkcs11_keys import label_of

    with _checked():
        token = _token()
        items = [
            {"role": role, "label": label_of(role), "key_id": signer.key_id, "public": signer.public.hex()}
            for role in LEDGER_ROLES
            for signer in token.signers(role)
        ]
    output_of(context).rows({"items": items}, TOKEN_COLUMNS, "The token has no key for this ledger.")


@contextmanager
def _checked() -> Iterator[None]:
    """What is wrong with a key, a file or a token is for the person to mend."""
    from domain.ledger import LedgerUnavailable
    from infra.settings import SettingsError

    try:
        yield
    except SettingsError as error:
        raise Failure(ExitCode.USAGE, "keystore", f"{error.field}: {error.rule}", field=error.field, remedy=error.remedy) from error
    except LedgerUnavailable as error:
        raise Failure(ExitCode.UNREACHABLE, error.code, error.message, remedy=error.remedy) from error
    except OSError as error:
        raise Failure(ExitCode.USAGE, "keystore", f"{error.filename} cannot be written: {error.strerror}.") from error


def _keys_dir(context: typer.Context) -> Path:
    return client_of(context).home / "keys"


def _files(folder: Path) -> Iterator[Json]:
    from infra.key_files import read_key, read_public, require_private
    from infra.keystore import OLD, ROLES

    require_private(folder, is_folder=True)
    for role in ROLES:
        for name, state in ((f"{role}.key", "in place"), (f"{role}.next.key", "prepared")):
            if (file := folder / name).exists():
                yield _file(role, state, file, read_key(file, role))
    if (file := folder / "root.pub.json").exists():
        yield _file("root", "offline", file, read_public(file))
    for file in sorted((folder / OLD).glob("*.key")):
        role = file.name.partition("-")[0]
        yield _file(role, "rotated out", file, read_key(file, role))


def _file(role: str, state: str, file: Path, key: FileSigner | OfflineRoot) -> Json:
    return {"role": role, "key": key.key_id[:16], "key_id": key.key_id, "state": state, "created": key.created, "file": str(file)}


def _request(signer: FileSigner, ledger: str) -> Json:
    import base64

    from domain.keys import KeyAdded

    proof = signer.sign(KeyAdded.statement(ledger, signer.role, signer.key_id))
    return {
        "ledger": ledger,
        "role": signer.role,
        "holder": signer.holder,
        "custody": signer.custody,
        "algorithm": "ed25519",
        "key_id": signer.key_id,
        "public": base64.b64encode(signer.public).decode(),
        "proof": base64.b64encode(proof).decode(),
    }


def _proven(document: Any) -> bytes:
    """The statement that lets the requested key in. The root signs for no key that its holder did not show to have."""
    import base64

    from domain.keys import KeyAdded
    from infra.key_files import key_id, verify

    try:
        ledger, role, holder, custody = said = [document[name] for name in ("ledger", "role", "holder", "custody")]
        public, proof = (base64.b64decode(document[name], validate=True) for name in ("public", "proof"))
        if any("\n" in text for text in said):
            raise ValueError("a line feed would begin another line of the statement")
    except (KeyError, TypeError, ValueError) as error:
        raise typer.BadParameter("it is not what `aureus keys new` prints.", param_hint="REQUEST") from error
    named = key_id(public)
    if role not in {OwnRole.ACTOR, OwnRole.WITNESS}:
        raise typer.BadParameter("the ledger's own keys are rotated; only actors' and witnesses' keys are let in.", param_hint="REQUEST")
    if document.get("key_id") != named:
        raise typer.BadParameter("its key id is not that of its public key.", param_hint="REQUEST")
    if not verify(public, KeyAdded.statement(ledger, role, named), proof):
        raise typer.BadParameter("its proof is not a signature of the new key for this ledger and role.", param_hint="REQUEST")
    return KeyAdded.authorisation_statement(ledger, role, named, custody, holder)


def _root(file: Path | None) -> Signer:
    from infra.key_files import read_key

    if file is not None:
        return read_key(file, "root")
    signers = _token().signers("root")
    if len(signers) != 1:
        found = f"it has {len(signers)} root keys" if signers else "it has no root key"
        raise Failure(ExitCode.USAGE, "keystore", f"The token cannot authorise: {found}.", remedy="Name the root key's file with --key.")
    return signers[0]


def _token() -> Pkcs11Keys:
    from infra.pkcs11_keys import Pkcs11Keys
    from infra.settings import Settings

    place = Settings.from_environment().token_place
    if place is None:
        remedy = "Set AUREUS_PKCS11_MODULE, AUREUS_PKCS11_TOKEN and AUREUS_PKCS11_PIN."
        raise Failure(ExitCode.USAGE, "keystore", "No token is named.", field="AUREUS_PKCS11_TOKEN", remedy=remedy)
    return Pkcs11Keys(place)


def _print(out: Output, document: Json) -> None:
    """A document to be kept in a file, so it is JSON for people as well."""
    import json

    out.json(document) if out.as_json else out.text(json.dumps(document, indent=2))
