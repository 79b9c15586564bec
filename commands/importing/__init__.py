"""Documents of other catalogs, read into commands: what they share is how they fail, how they name people, and how text is spelled.

An importer is a pure function from a parsed document to commands. It reads the whole document or refuses it: every
problem is named by its place, the rule it breaks and what would help.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar
from unicodedata import normalize

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from commands.catalog import RecordOwnerContact, SyncDataset
from domain.kernel import Refused
from domain.values import MAX_SAFE_INTEGER

ImportCommand = SyncDataset | RecordOwnerContact
Parsed = TypeVar("Parsed", bound=BaseModel)

MAX_PROBLEMS: Final = 50
_ID_SUBJECT: Final = re.compile(r"[^A-Za-z0-9._@+=~-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: where (a JSON pointer), which rule it breaks, what would help."""

    path: str
    rule: str
    remedy: str


class DocumentRefused(Refused):
    """A document that cannot be imported, with every problem found in it."""

    def __init__(self, kind: str, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(
            "document_invalid",
            f"The {kind} cannot be imported: {first.path}: {first.rule}.",
            field=first.path,
            rule=first.rule,
            remedy=first.remedy,
            problems=[asdict(problem) for problem in problems[:MAX_PROBLEMS]],
            problem_count=len(problems),
        )


class Source(BaseModel):
    """A part of a foreign document: what is not read here is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def pointer(*steps: object) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps) or "/"


def parse(model: type[Parsed], document: object, kind: str, remedy: str) -> Parsed:
    """The document as `model`; every mismatch becomes a problem with its place."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors()
        raise DocumentRefused(kind, [Problem(pointer(*_place(one)), _rule(one), remedy) for one in found]) from None


def build(kind: str, place: str, **fields: Any) -> SyncDataset:
    """The command for one dataset; what makes it impossible is told with the place it was read from."""
    try:
        return SyncDataset.model_validate(fields)
    except ValidationError as error:
        remedy = "Correct it where the document is made, or leave this dataset out."
        found = error.errors()
        raise DocumentRefused(kind, [Problem(place + pointer(*_place(one)).rstrip("/"), _rule(one), remedy) for one in found]) from None


def _place(error: ErrorDetails) -> Iterator[int | str]:
    return (step for step in error["loc"] if step != "[key]")


def _rule(error: ErrorDetails) -> str:
    if error["type"] in {"model_type", "mapping_type", "dict_type"}:
        return "it must be an object"
    if error["type"] == "missing":
        return "it must be there"
    return error["msg"].removeprefix("Value error, ")


def ext_id(name: str) -> str:
    """The opaque id of somebody known by a name alone; the same name gives the same id, and the id does not tell the name."""
    return "ext-" + hashlib.sha256(name.strip().casefold().encode()).hexdigest()[:16]


def identifier(text: str) -> str:
    """Text as an id: whatever an id cannot hold becomes a dash."""
    return _ID_SUBJECT.sub("-", text).strip("-._@+=~")[:200] or "unnamed"


def portable(value: Any) -> Any:
    """A JSON value every signer and reader agrees on: text in NFC, fractions and huge integers as text, keys in ASCII."""
    match value:
        case str():
            return normalize("NFC", value)
        case bool() | None:
            return value
        case int() if abs(value) <= MAX_SAFE_INTEGER:
            return value
        case dict():
            return {str(key).encode("ascii", "backslashreplace").decode(): portable(item) for key, item in value.items()}
        case list() | tuple():
            return [portable(item) for item in value]
        case _:
            return str(value)


def text_in_nfc(value: Any) -> Any:
    """The document with all its text, keys included, in the one spelling that is signed."""
    match value:
        case str():
            return normalize("NFC", value)
        case dict():
            return {text_in_nfc(key): text_in_nfc(item) for key, item in value.items()}
        case list():
            return [text_in_nfc(item) for item in value]
        case _:
            return value


def seconds_as_duration(seconds: int) -> str:
    """An ISO 8601 duration (`P1DT12H`)."""
    days, rest = divmod(seconds, 86_400)
    parts = zip((rest // 3_600, rest % 3_600 // 60, rest % 60), "HMS", strict=True)
    time = "".join(f"{count}{unit}" for count, unit in parts if count)
    return "P" + (f"{days}D" if days else "") + (f"T{time}" if time else "") if seconds else "PT0S"


def contact(dataset_id: str, owner_id: str, name: str, email: str | None = None) -> RecordOwnerContact:
    """How to reach an owner the document names; an address in place of a name is taken for an address."""
    if email is None and "@" in name.strip("@"):
        name, email = "", name
    return RecordOwnerContact(dataset_id=dataset_id, owner_id=owner_id, contact_name=name[:200] or None, contact_email=email)


def refuse_duplicates(kind: str, found: Iterable[tuple[str, str]]) -> None:
    """Refuses two parts of a document (place, dataset id) that would be one dataset."""
    first: dict[str, str] = {}
    for place, dataset_id in found:
        if dataset_id in first:
            rule = f"{first[dataset_id]} is dataset {dataset_id} already"
            raise DocumentRefused(kind, [Problem(place, rule, "Give one of them another name.")])
        first[dataset_id] = place
