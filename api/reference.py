"""What Aureus says about itself, written from the code: `python -m api.reference` writes docs/events.md, api.md and cli.md,
and beside the code api/openapi.yaml and api/commands.json."""

from __future__ import annotations

import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml
from fastapi.routing import APIRoute

from api.app import create_app
from api.cli.reference import render_reference
from api.operations import render_operations
from api.services import projections
from domain.exports import IndexCommitted
from domain.foreign import EventStored
from domain.kernel import EVENTS, Event, JsonObject

DOCS: Final = Path(__file__).parent.parent / "docs"
COMMAND: Final = "python -m api.reference"

UNREAD: Final[Mapping[type[Event], str]] = MappingProxyType(
    {
        IndexCommitted: "read from the ledger itself, by whoever makes or verifies an export",
        EventStored: "read by the application that stored it; its bytes mean nothing here",
    }
)
"""Events that no projection reads, and why."""

_OPENING: Final = f"""# Events

Written by `{COMMAND}` from the code; a test compares the two.

Everything that ever happened is one of these. A name and a schema number stand for one shape for ever: a changed shape
takes the next number, and the class upcasts what was written before. Fields marked *personal* never enter the signed
bytes: a salted digest does, and the value itself can be erased.
"""


def shipped() -> list[type[Event]]:
    """Every event that ships, by name."""
    projections()  # loads every context
    return [event for event in EVENTS if event.__module__.startswith("domain.")]


def render_events() -> str:
    """The catalogue of events, and the shapes they are made of."""
    readers, events = _readers(), shipped()
    shapes: dict[str, JsonObject] = {}
    parts = [_OPENING]
    for context in sorted({event.event_name.partition(".")[0] for event in events}):
        parts.append(f"\n## {context}\n")
        for event in events:
            if event.event_name.partition(".")[0] == context:
                schema = event.model_json_schema()
                shapes |= schema.get("$defs", {})
                parts.append(_event(event, schema, readers.get(event, [])))
    parts.append("\n## Shapes\n")
    parts.extend(_shape(name, shape) for name, shape in sorted(shapes.items()))
    return "".join(parts)


def catalogue() -> list[JsonObject]:
    """The same for programs: of each event its name, schema, meaning, personal fields, who reads it, and its JSON schema."""
    readers = _readers()
    return [
        {
            "name": event.event_name,
            "schema": event.schema_version,
            "about": _first_line(event),
            "personal": sorted(event.personal),
            "read_by": [name.strip("`") for name in readers.get(event, [])],
            "json_schema": event.model_json_schema(),
        }
        for event in shipped()
    ]


def _readers() -> dict[type[Event], list[str]]:
    """The read tables that each event changes."""
    found: dict[type[Event], list[str]] = defaultdict(list)
    for projection in projections():
        for event, folds in projection.folds.items():
            found[event] += [f"`{projection.name}.{table}`" for table in dict.fromkeys(table for table, _, _ in folds)]
    return found


def _event(event: type[Event], schema: JsonObject, readers: list[str]) -> str:
    read_by = f"Read by {', '.join(readers)}." if readers else f"Read by no projection: {UNREAD[event]}."
    title = f"\n### `{event.event_name}`, schema {event.schema_version}\n"
    return f"{title}\n{_first_line(event)}\n\n{_fields(schema, set(event.personal))}\n{read_by}\n"


def _shape(name: str, shape: JsonObject) -> str:
    about = inspect.cleandoc(shape.get("description", "")).partition("\n")[0]
    body = _fields(shape, set()) if "properties" in shape else f"{_type(shape)}\n"
    return f"\n### {name}\n\n{about}\n\n{body}"


def _fields(schema: JsonObject, personal: set[str]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        f"| `{name}` | {_type(field)} | {_presence(name, field, required)}{' *personal*' if name in personal else ''} |"
        for name, field in schema.get("properties", {}).items()
    ]
    return "\n".join(["| field | type | |", "|---|---|---|", *rows]) + "\n"


def _presence(name: str, field: JsonObject, required: set[str]) -> str:
    if name in required:
        return "required"
    default = field.get("default")
    return "optional" if default is None else f"optional, `{json.dumps(default, ensure_ascii=False)}` when left out"


def _type(field: JsonObject) -> str:
    """A JSON schema as one reads it."""
    match field:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": list(choices)}:
            return " or ".join(_type(choice) for choice in choices if choice.get("type") != "null")
        case {"enum": list(values)}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "array", "items": dict(items)}:
            return f"list of {_type(items)}"
        case {"type": "string", "format": str(form)}:
            return form
        case {"type": str(kind)}:
            return kind
        case _:
            return "any"


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def render_openapi() -> str:
    """The OpenAPI document of the API."""
    # Through JSON, so that nothing in it is one object twice, which YAML would write as an anchor and its aliases.
    document = json.loads(json.dumps(create_app().openapi(), sort_keys=True))
    return yaml.dump(document, Dumper=yaml.CSafeDumper, allow_unicode=True, width=120)


def render_api() -> str:
    """Every operation, for people."""
    return render_operations((route for route in create_app().routes if isinstance(route, APIRoute)), COMMAND)


def render_commands() -> str:
    """Which command a POST to which path asks for: what a client that signs commands has to know, without all that serves them."""
    routes = [route for route in create_app().routes if hasattr(route, "entrance")]
    commands = {route.path: route.entrance.command for route in routes}  # type: ignore[attr-defined]
    asked = {path: f"{command.__module__}:{command.__name__}" for path, command in commands.items()}
    return json.dumps(asked, indent=1, sort_keys=True) + "\n"


GENERATED: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "api.md": render_api,
        "cli.md": render_reference,
        "events.md": render_events,
        "../api/openapi.yaml": render_openapi,
        "../api/commands.json": render_commands,
    }
)
"""Files in docs/, and two beside the code, and what writes them."""


def stale() -> Iterator[tuple[str, str]]:
    """The files that are not what the code says, and what they should say."""
    for name, render in GENERATED.items():
        path, text = DOCS / name, render()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield name, text


def main() -> None:
    """Writes what has changed."""
    for name, text in stale():
        (DOCS / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")


if __name__ == "__main__":
    main()
