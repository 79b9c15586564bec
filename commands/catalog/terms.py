"""When the glossary says yes: a term is defined once, and reworded after that."""

from collections.abc import Sequence
from typing import Final, assert_never

from commands.catalog.intents import DefineTerm, ReviseTerm, TermCommand
from domain.catalog import Term, TermDefined, TermEvent, TermRevised, evolve_term
from domain.kernel import Asked, Decider, require


def decide_term(term: Term | None, command: TermCommand, _asked: Asked) -> Sequence[TermEvent]:
    match command:
        case DefineTerm():
            require(
                term is None,
                "term_exists",
                f"Term {command.term_id} is defined already.",
                field="term_id",
                remedy="Choose another id, or revise the one that is there.",
            )
            return [TermDefined(**command.model_dump())]
        case ReviseTerm():
            require(
                term is not None, "term_not_found", f"No term {command.term_id} is defined.", field="term_id", remedy="Define it first."
            )
            assert term is not None
            before = TermRevised(term_id=term.term_id, name=term.name, definition=term.definition, synonyms=term.synonyms)
            revised = before.model_copy(update=command.model_dump(exclude_none=True))
            return [revised] if revised != before else []
        case _:
            assert_never(command)


TERMS: Final[Decider[Term | None, TermCommand, TermEvent]] = Decider(
    context="catalog",
    category="term",
    initial=None,
    evolve=evolve_term,
    decide=decide_term,
    commands=(DefineTerm, ReviseTerm),
    events=(TermDefined, TermRevised),
    entity=lambda command: command.term_id,
)
