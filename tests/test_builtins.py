"""The functions a policy may call: each answers in the embedded evaluator as it does in OPA, shown by example."""

import subprocess
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from domain.kernel import JsonObject
from infra.policy import _COMMAND, _frame
from infra.policy_bundle import BUILTINS, ENTRYPOINT, OPERATORS, Bundle
from tests.support.builtins import EXAMPLES, LEFT_OUT, LEFT_OUT_INPUT, NOTHING, arguments, asking, every_builtin, rule

EVERYTHING = frozenset(
    "format_int indexof json.marshal lower upper max min sort object.union object.subset strings.replace_n sprintf div rem equal".split()
)


def worker_answers(bundle: Bundle, asked: list[tuple[str, JsonObject]], allowed: frozenset[str] = BUILTINS | OPERATORS) -> list[JsonObject]:
    """What the worker says to each question, asked of the rule that it names."""
    entrypoints = [ENTRYPOINT, *dict.fromkeys(f"aureus/{name}" for name, _ in asked)]
    frames = [_frame(orjson.dumps({"entrypoint": f"aureus/{name}", "input": given})) for name, given in asked]
    hello = {"modules": bundle.modules, "data": bundle.data, "entrypoints": entrypoints, "builtins": sorted(allowed)}
    sent = _frame(orjson.dumps(hello)) + b"".join(frames)
    done = subprocess.run(_COMMAND, input=sent, stdout=subprocess.PIPE, env={}, timeout=60, check=True)
    ready, *answers = _frames(done.stdout)
    assert ready == {"ready": True}
    return answers


def _frames(received: bytes) -> Iterator[JsonObject]:
    while received:
        end = 4 + int.from_bytes(received[:4], "big")
        yield orjson.loads(received[4:end])
        received = received[end:]


def test_there_are_examples_of_everything_that_is_allowed() -> None:
    assert set(EXAMPLES) == BUILTINS | OPERATORS
    assert every_builtin().problems() == []


@pytest.fixture(scope="module")
def answers() -> dict[str, list[Any]]:
    """What the worker answers to every example."""
    asked = [(name, arguments(given)) for name, examples in EXAMPLES.items() for given, _ in examples]
    found: dict[str, list[Any]] = {}
    for (name, _), answer in zip(asked, worker_answers(every_builtin(), [(rule(name), given) for name, given in asked]), strict=True):
        found.setdefault(name, []).append(answer.get("value", NOTHING))
    return found


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_embedded_evaluator_answers_as_opa_does(name: str, answers: dict[str, list[Any]]) -> None:
    assert list(zip(EXAMPLES[name], answers[name], strict=True)) == [((given, is_), is_) for given, is_ in EXAMPLES[name]]


@pytest.mark.parametrize(("expression", "opa_says"), LEFT_OUT)
def test_what_it_answers_otherwise_is_refused(expression: str, opa_says: Any) -> None:
    """What is left out is so for a reason that still stands; what an upgrade mends may come in."""
    bundle = asking({"x": expression})
    assert worker_answers(bundle, [("x", LEFT_OUT_INPUT)], allowed=EVERYTHING)[0].get("value", NOTHING) != opa_says
    assert bundle.problems() != []
