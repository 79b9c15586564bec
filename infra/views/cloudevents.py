"""Every event as a CloudEvent in structured JSON, for event buses and whoever consumes from them.

The envelope is that of CloudEvents 1.0, the data is the event's own. The signature is not in it: the entry at `position` has it.
"""

from __future__ import annotations

from functools import partial
from typing import Final
from urllib.parse import quote

from domain.kernel import JsonObject
from infra.views.view import About, Lines, ViewEvent


def type_of(event_name: str, schema: int) -> str:
    """The registered type of a CloudEvent: `aureus.budgets.funds_reserved.v1`."""
    return f"aureus.{event_name}.v{schema}"


def _tell(source: str, event: ViewEvent) -> list[JsonObject]:
    body = event.body
    told = {
        "specversion": "1.0",
        "id": body["id"],
        "source": f"{source}/{quote(body['tenant'])}",
        "type": type_of(body["type"], body["schema"]),
        "subject": body["stream"],
        "time": body["at"],
        "datacontenttype": "application/json",
        # As text: an integer of CloudEvents has 32 bits, and a position may have more.
        "position": str(event.position),
        "streamversion": str(body["version"]),
        "leaf": event.leaf.hex(),
        "actor": body["actor"],
        "correlationid": body["correlation"],
    }
    if body["causation"]:
        told["causationid"] = body["causation"]
    return [{**told, "data": body["data"]}]


def teller(ledger: str) -> partial[list[JsonObject]]:
    """Tells the events of a ledger, each as one CloudEvent."""
    return partial(_tell, quote(ledger))


def _about(about: About) -> partial[list[JsonObject]]:
    return teller(about.ledger)


CLOUDEVENTS: Final = Lines("cloudevents", "views/cloudevents.jsonl", _about)
