"""What a verifier has to be told on another way than by those it verifies: a root key, and the witnesses one believes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from infra.verifier.notes import WITNESS, BadNote, VerifierKey

TRUST_FORMAT: Final = "aureus-trust/v1"
KEY_ID: Final = re.compile(r"[0-9a-f]{64}")
_MEMBERS: Final = {"format", "ledger", "root_keys", "witnesses", "witnesses_required"}


class BadTrust(ValueError):
    """A trust file that cannot be used; says which member, and what is needed."""


@dataclass(frozen=True, slots=True)
class Trust:
    """`aureus-trust/v1`. Whatever is left empty is taken from the ledger itself, and said to be."""

    ledger: str = ""
    root_keys: tuple[str, ...] = ()
    witnesses: tuple[VerifierKey, ...] = ()
    required: int = 0
    """How many of the witnesses must have cosigned."""

    @classmethod
    def parse(cls, document: bytes) -> Trust:
        """From a trust file; raises BadTrust."""
        try:
            said: Any = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise BadTrust(f"it is not JSON ({error})") from None
        if not isinstance(said, dict) or said.get("format") != TRUST_FORMAT or set(said) != _MEMBERS:
            raise BadTrust(f"an object of format {TRUST_FORMAT} is needed, with the members {', '.join(sorted(_MEMBERS))}")
        ledger, root_keys, required = said["ledger"], said["root_keys"], said["witnesses_required"]
        if not isinstance(ledger, str) or not ledger:
            raise BadTrust("ledger: the ledger's name is needed")
        if not isinstance(root_keys, list) or not root_keys or not all(isinstance(key, str) and KEY_ID.fullmatch(key) for key in root_keys):
            raise BadTrust("root_keys: a list of key ids of 64 hex digits is needed, at least one")
        try:
            witnesses = tuple(VerifierKey.parse(text) for text in said["witnesses"])
        except (BadNote, TypeError, AttributeError) as error:
            raise BadTrust(f"witnesses: a list of verifier keys is needed ({error})") from None
        if any(witness.kind != WITNESS for witness in witnesses):
            raise BadTrust("witnesses: a key that cosigns is of kind 4")
        if len({witness.public for witness in witnesses}) != len(witnesses):
            raise BadTrust("witnesses: one key stands twice, and counts once")
        if type(required) is not int or not 0 <= required <= len(witnesses):
            raise BadTrust(f"witnesses_required: a number from 0 to {len(witnesses)} is needed, as many as there are witnesses")
        return cls(ledger, tuple(root_keys), witnesses, required)

    def document(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {
            "format": TRUST_FORMAT,
            "ledger": self.ledger,
            "root_keys": list(self.root_keys),
            "witnesses": [witness.text() for witness in self.witnesses],
            "witnesses_required": self.required,
        }
