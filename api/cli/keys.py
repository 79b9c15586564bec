"""`aureus keys`: the keys that the ledger's bytes are signed with, and those that actors sign their own commands with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import keystore
from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Limit, Sort, client_of, json_of, output_of
from api.cli.output import Column, when

if TYPE_CHECKING:
    from infra.key_files import FileSigner

app = typer.Typer()
keys = typer.Typer(help="Keys that events, checkpoints and commands are signed with.", no_args_is_help=True)
app.add_typer(keys, name="keys")
keys.add_typer(keystore.app)

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id, or the first digits of it.")]
COLUMNS = (
    Column("key", lambda key: key["key_id"][:16]),
    Column("role", "role"),
    Column("holder", "holder"),
    Column("custody", "custody"),
    Column("status", "status"),
    when("added", "added_at"),
    Column("after", "added_position", right=True),
    Column("until", "ended_position", right=True),
)
PROPERTIES = ("role", "holder", "status", "custody", "added_position", "ended_position", "compromised_since", "reason")
KEY_ID_DIGITS: Final = 64
REQUEST: Final = ("role", "custody", "public", "proof", "holder", "authorised_by", "authorisation")
"""What of `aureus keys new` is asked for; the rest follows from it."""


@keys.command("list")
def list_(
    context: typer.Context,
    role: Annotated[str | None, typer.Option("--role", help="root, log, service, actor or witness.")] = None,
    holder: Annotated[str | None, typer.Option("--holder", metavar="TENANT/ACTOR|WITNESS", help="Only this one's.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="active, rotated or revoked.")] = None,
    sort: Sort = "added_position",
    limit: Limit = 50,
) -> None:
    """List keys: each signs what stands after its first position, up to its last."""
    page = client_of(context).rows(path("keys"), limit, role=role, holder=holder, status=status, sort=sort)
    output_of(context).rows(page, COLUMNS, "There is no such key.")


@keys.command()
def show(context: typer.Context, key_id: KeyId) -> None:
    """Show a key."""
    client = client_of(context)
    row = client.one(path("keys", _whole(client, key_id)))
    client.out.record(row, f"Key {row['key_id']}", PROPERTIES)


@keys.command()
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `aureus keys new` or `keys authorise` wrote; - is standard input.")],
) -> None:
    """Let a key in: your own, or as an administrator that of a witness. From then on you sign what you ask."""
    client = client_of(context)
    document = json_of(file)
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{file} is not what `aureus keys new` writes.", param_hint="FILE")
    _require_this_ledger(client, document.get("ledger"))
    result = client.ask(path("keys"), {name: document.get(name) for name in REQUEST})
    client.out.done(result, f"Key {_added(result)} of {document.get('holder')} is in the ledger.")


@keys.command()
def rotate(
    context: typer.Context,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The file of the key that hands over.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The file of the key that takes over.")],
    role: Annotated[str, typer.Option("--role", help="What they are for: actor, witness or root.")] = "actor",
) -> None:
    """Have one key take over from another; both sign that here, and neither leaves its file."""
    client = client_of(context)
    ending, following = _key(old, role), _key(new, role)
    body = _rotation(_ledger(client), role, ending, following)
    result = client.ask(path("keys", ending.key_id, "rotate"), body)
    if client.profile.signing_key == str(old.absolute()):
        client.profile.sign_with(str(new.absolute()))
    client.out.done(result, f"Key {following.key_id[:16]} took over from {ending.key_id[:16]}.")


@keys.command()
def revoke(
    context: typer.Context,
    key_id: KeyId,
    because: Annotated[str, typer.Option("--because", "-m", metavar="TEXT", help="Why; it goes on record.")],
    compromised_since: Annotated[
        int | None,
        typer.Option("--compromised-since", metavar="POSITION", min=1, help="What it signed from here on is disputed."),
    ] = None,
) -> None:
    """Take a key out: your own, or as an administrator any but the root's."""
    client = client_of(context)
    key_id = _whole(client, key_id)
    body = {"reason": because, "compromised_since": compromised_since}
    client.out.done(client.ask(path("keys", key_id, "revoke"), body), f"Revoked key {key_id[:16]}.")


@keys.command("rotate-server")
def rotate_server(context: typer.Context, role: Annotated[str, typer.Argument(metavar="ROLE", help="log, service or root.")]) -> None:
    """Rotate a key of the server's own, while it runs: what it writes from then on is signed with the new one."""
    result = client_of(context).ask(path("keys", "server", role, "rotate"), {})
    output_of(context).done(result, f"Key {_added(result)} is the {role} key from here on.")


def _whole(client: Client, key_id: str) -> str:
    """The id that these digits begin; Failure when there is none, or more than one."""
    if len(key_id) == KEY_ID_DIGITS:
        return key_id
    rows = client.rows(path("keys"), 100, q=key_id)["items"]
    found = [str(row["key_id"]) for row in rows if row["key_id"].startswith(key_id)]
    if len(found) != 1:
        message = f"{len(found) or 'No'} keys have ids that begin with {key_id}."
        raise Failure(ExitCode.NOT_FOUND, "key_not_found", message, field="KEY", remedy="`aureus keys list` shows them; give more digits.")
    return found[0]


def _added(result: Json) -> str:
    return next((str(event["data"]["key_id"])[:16] for event in result.get("events", ()) if "key_id" in event["data"]), "")


def _ledger(client: Client) -> str:
    return str(client.one(path("ledger", "keys"))["ledger"])


def _require_this_ledger(client: Client, wanted: Any) -> None:
    ledger = _ledger(client)
    if wanted not in {None, ledger}:
        raise Failure(
            ExitCode.USAGE,
            "other_ledger",
            f"The key was made for the ledger {wanted}, and {client.url} keeps {ledger}.",
            field="ledger",
            remedy="Make one for this ledger: `aureus keys new`.",
        )


def _key(file: Path, role: str) -> FileSigner:
    from infra.key_files import KeystoreError, read_key

    try:
        return read_key(file, role)
    except KeystoreError as error:
        raise Failure(ExitCode.USAGE, "key_file", error.rule, field=str(file), remedy=error.remedy) from error


def _rotation(ledger: str, role: str, old: FileSigner, new: FileSigner) -> Json:
    import base64

    from domain.keys import KeyRotated

    statement = KeyRotated.statement(ledger, role, old.key_id, new.key_id, new.custody)
    signed = {"public": new.public, "proof": new.sign(statement), "consent": old.sign(statement)}
    return {"role": role, "custody": new.custody, **{name: base64.b64encode(raw).decode() for name, raw in signed.items()}}
