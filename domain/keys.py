"""Keys of the ledger: who may sign what, from which position on. Every key enters by an event."""

from typing import Literal

from domain.kernel import Event
from domain.values import Sha256

KeyRole = Literal["root", "log", "service", "actor", "witness"]
Custody = Literal["client", "kms", "server"]


class KeyAdded(Event, name="keys.key_added"):
    """A key is valid from this event's position on.

    The event is signed by the root key; `proof` is the new key's own signature over `statement()`, so nobody can
    register a key they do not hold. `public` and `proof` are base64.
    """

    key_id: Sha256
    algorithm: Literal["ed25519"] = "ed25519"
    role: KeyRole
    custody: Custody
    public: str
    proof: str

    @staticmethod
    def statement(ledger: str, role: str, key_id: str) -> bytes:
        """What the proof of possession is over: the key's id and role in this ledger and no other."""
        return f"aureus key\n{ledger}\n{role}\n{key_id}\n".encode()
