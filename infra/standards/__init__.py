"""The published schemas of other people's formats, shipped unchanged, and documents held against them."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jsonschema import Draft201909Validator, ValidationError

from commands.importing import DocumentRefused, Problem, pointer
from commands.importing.odcs import CONTRACT

_REMEDIES: Final = {
    "required": "Add it.",
    "additionalProperties": "Remove it, or check its spelling.",
    "unevaluatedProperties": "Remove it, or check its spelling.",
    "enum": "Use one of the values named.",
    "const": "Use the value named.",
    "type": "Write it as that type; in YAML, a date or a version needs quotes.",
    "pattern": "Write it in that form.",
}
_MAX_RULE_CHARACTERS: Final = 300


def require_odcs(document: Any) -> None:
    """Refuses a contract that breaks the standard's own JSON Schema, with every place where it does."""
    faults = [cause for error in _odcs().iter_errors(document) for cause in _causes(error)]
    problems = dict.fromkeys(_problem(fault) for fault in faults if not _follows_from_another(fault, faults))
    if problems:
        raise DocumentRefused(CONTRACT, sorted(problems, key=lambda problem: problem.path))


def _follows_from_another(fault: ValidationError, faults: list[ValidationError]) -> bool:
    """A property is also called unevaluated when something inside the object is wrong, or when it was called additional."""
    place = list(fault.absolute_path)
    inside = (other for other in faults if other is not fault and list(other.absolute_path)[: len(place)] == place)
    return fault.validator == "unevaluatedProperties" and any(inside)


def _causes(error: ValidationError) -> Iterator[ValidationError]:
    """What is wrong at bottom: of alternatives, the faults of those the value was meant for, told by its type."""
    meant = [branch for branch in _branches(error).values() if not any(_is_other_type(error, fault) for fault in branch)]
    if not meant:
        yield error
    for branch in meant:
        for fault in branch:
            yield from _causes(fault)


def _branches(error: ValidationError) -> dict[object, list[ValidationError]]:
    branches: dict[object, list[ValidationError]] = {}
    for fault in error.context or ():
        branches.setdefault(fault.schema_path[0], []).append(fault)
    return branches


def _is_other_type(error: ValidationError, fault: ValidationError) -> bool:
    return fault.validator == "type" and fault.absolute_path == error.absolute_path


def _problem(error: ValidationError) -> Problem:
    kind, path = str(error.validator), list(error.absolute_path)
    remedy = _REMEDIES.get(kind, "See the schema of the Open Data Contract Standard v3.1.0.")
    match kind:
        case "required":
            missing = error.message.partition("' is a required")[0].removeprefix("'")
            return Problem(pointer(*path, missing), "it must be there", remedy)
        case "type":
            return Problem(pointer(*path), f"it must be of type {error.validator_value}", remedy)
        case "additionalProperties" | "unevaluatedProperties":
            return Problem(
                pointer(*path), error.message.partition("(")[2].rstrip(")").replace("unexpected", "not part of the standard"), remedy
            )
        case _:
            return Problem(pointer(*path), error.message[:_MAX_RULE_CHARACTERS], remedy)


@cache
def _odcs() -> Draft201909Validator:
    text = files("infra.standards").joinpath("odcs-json-schema-v3.1.0.json").read_text(encoding="utf-8")
    return Draft201909Validator(json.loads(text))
