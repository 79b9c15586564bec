"""What every function and operator of the allow-list answers, by example: as OPA 1.22 does, and as the embedded evaluator must."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from domain.kernel import JsonObject
from infra.policy_bundle import Bundle

NOTHING: Final = object()
"""An error or something undefined: no answer, so the question is refused."""

_FORMS: Final = {
    "and": "{x | some x in input.a} & {x | some x in input.b}",
    "equal": "input.a == input.b",
    "gt": "input.a > input.b",
    "gte": "input.a >= input.b",
    "internal.member_2": "(input.a in input.b)",
    "internal.member_3": "(input.a, input.b in input.c)",
    "intersection": "intersection({{x | some x in list} | some list in input.a})",
    "is_set": "is_set({x | some x in input.a})",
    "lt": "input.a < input.b",
    "lte": "input.a <= input.b",
    "minus": "input.a - input.b",
    "mul": "input.a * input.b",
    "neq": "input.a != input.b",
    "or": "{x | some x in input.a} | {x | some x in input.b}",
    "plus": "input.a + input.b",
    "sprintf": 'sprintf("%s: %v%%", input.a)',
    "union": "union({{x | some x in list} | some list in input.a})",
}
"""How those are written that do not take their arguments in brackets, or take more than JSON."""

LARGE: Final = 2**40 + 1
"""More than 32 bits."""

EXAMPLES: Final[dict[str, list[tuple[list[Any], Any]]]] = {
    "abs": [([-2], 2), ([-1.5], 1.5), ([-LARGE], LARGE)],
    "array.concat": [([[1], ["a", None]], [1, "a", None]), ([[], []], []), ([[1], "a"], NOTHING)],
    "array.reverse": [([[1, 2, 2]], [2, 2, 1])],
    "array.slice": [([[1, 2, 3], 1, 3], [2, 3]), ([[1, 2, 3], -1, 1], [1]), ([[1, 2, 3], 2, 1], []), ([[1], 0, 9], [1])],
    "ceil": [([1.2], 2), ([-1.2], -1), ([LARGE], LARGE)],
    "concat": [(["-", ["a", "é"]], "a-é"), (["", []], ""), (["-", [1]], NOTHING)],
    "contains": [(["abc", "b"], True), (["abc", ""], True), (["Lake", "lake"], False)],
    "count": [(["日本語"], 3), ([[1, 1]], 2), ([{"a": 1}], 1), ([[]], 0)],
    "endswith": [(["abc", "bc"], True), (["abc", "b"], False)],
    "floor": [([1.8], 1), ([-1.2], -2), ([LARGE], LARGE)],
    "glob.match": [
        (["eu-*", [], "eu-lake"], True),
        (["eu-*", ["."], "us-lake"], False),
        (["a.*", ["."], "a.b.c"], False),
        (["a.**", ["."], "a.b.c"], True),
        (["{eu,us}-?", [], "us-1"], True),
    ],
    "intersection": [([[["a", "b"], ["b"]]], ["b"]), ([[["a"], ["b"]]], [])],
    "is_array": [([[]], True), ([{}], False), (["a"], False)],
    "is_boolean": [([False], True), ([0], False)],
    "is_null": [([None], True), ([False], False)],
    "is_number": [([1.5], True), ([LARGE], True), (["1"], False), ([None], False)],
    "is_object": [([{}], True), ([[]], False)],
    "is_set": [([[1]], True), ([[]], True)],
    "is_string": [([""], True), ([1], False)],
    "numbers.range": [([1, 3], [1, 2, 3]), ([3, 1], [3, 2, 1]), ([2, 2], [2])],
    "object.filter": [([{"a": 1, "b": 2}, ["a", "c"]], {"a": 1})],
    "object.get": [([{"a": 1}, "b", 7], 7), ([{"a": None}, "a", 7], None), ([{"a": {"b": 1}}, ["a", "b"], 7], 1)],
    "object.keys": [([{"b": 1, "a": {}}], ["a", "b"]), ([{}], [])],
    "object.remove": [([{"a": 1, "b": {"a": 2}}, ["a"]], {"b": {"a": 2}})],
    "product": [([[2, 3]], 6), ([[]], 1), ([[LARGE, 2]], 2 * LARGE)],
    "regex.match": [(["^eu-[a-z]+$", "eu-lake"], True), (["^eu-[a-z]+$", "my eu-lake"], False), (["[0-9]{2}", "a12b"], True)],
    "replace": [(["a.b.c", ".", "-"], "a-b-c"), (["abc", "x", "y"], "abc")],
    "round": [([1.6], 2), ([-1.6], -2), ([2.5], 3), ([LARGE], LARGE)],
    "split": [(["a.b", "."], ["a", "b"]), (["ab", "."], ["ab"]), (["a..b", "."], ["a", "", "b"])],
    "sprintf": [([["usage", 80]], "usage: 80%"), ([["usage", LARGE]], f"usage: {LARGE}%"), ([["é", 1.5]], "é: 1.5%")],
    "startswith": [(["abc", "ab"], True), (["abc", "b"], False), (["abc", ""], True)],
    "strings.any_prefix_match": [(["abc", ["x", "ab"]], True), ([["x", "abc"], "ab"], True), (["abc", ["b"]], False), (["a", []], False)],
    "strings.any_suffix_match": [(["abc", ["x", "bc"]], True), ([["x", "abc"], "bc"], True), (["abc", ["b"]], False), (["a", []], False)],
    "strings.reverse": [(["abé"], "éba"), ([""], "")],
    "substring": [(["abcd", 1, 2], "bc"), (["日本語", 1, -1], "本語"), (["ab", 1, 9], "b"), (["ab", -1, 1], NOTHING)],
    "sum": [([[1, 2, 0.5]], 3.5), ([[]], 0), ([[LARGE, LARGE]], 2 * LARGE)],
    "to_number": [(["12"], 12), (["-1.5"], -1.5), ([None], 0), ([True], 1), (["twelve"], NOTHING)],
    "trim": [(["xaxyx", "xy"], "a"), ([" a ", "x"], " a ")],
    "trim_left": [(["xax", "x"], "ax")],
    "trim_prefix": [(["ababc", "ab"], "abc"), (["abc", "b"], "abc")],
    "trim_right": [(["xax", "x"], "xa")],
    "trim_space": [(["  a b "], "a b")],
    "trim_suffix": [(["abcbc", "bc"], "abc"), (["abc", "b"], "abc")],
    "type_name": [([[]], "array"), ([None], "null"), ([1.5], "number"), ([{}], "object"), ([""], "string"), ([True], "boolean")],
    "union": [([[["a"], ["b", "a"]]], ["a", "b"])],
    "and": [([["a", "b"], ["b", "c"]], ["b"]), ([["a"], []], [])],
    "equal": [([{"a": [1]}, {"a": [1]}], True), ([1, 1.0], True), ([1, "1"], False), ([None, False], False), (["é", "é"], True)],
    "gt": [([10, 9], True), ([LARGE, 9], True), (["b", "a"], True), ([1.5, 1], True), ([1, 1], False)],
    "gte": [([10, 10], True), ([9, 10], False), (["a", "a"], True)],
    "internal.member_2": [([10, [1, 10]], True), (["a", {"k": "a"}], True), (["k", {"k": "a"}], False), ([None, []], False)],
    "internal.member_3": [([0, "a", ["a"]], True), (["k", "a", {"k": "a"}], True), ([1, "a", ["a"]], False)],
    "lt": [([9, 10], True), ([-LARGE, -9], True), (["B", "a"], True), ([10, 9], False)],
    "lte": [([10, 10], True), ([10, 9], False), (["a", "b"], True)],
    "minus": [([3, 5], -2), ([LARGE, 1], LARGE - 1), ([1.5, 1], 0.5)],
    "mul": [([LARGE, 2], 2 * LARGE), ([-2, 1.5], -3)],
    "neq": [([1, 2], True), ([[1], [1]], False), (["1", 1], True)],
    "or": [([["a"], ["b", "a"]], ["a", "b"])],
    "plus": [([LARGE, LARGE], 2 * LARGE), ([0.5, 1], 1.5)],
}


LEFT_OUT: Final[list[tuple[str, Any]]] = [
    ("format_int(input.five, 2)", "101"),
    ('indexof(input.text, "")', NOTHING),
    ("json.marshal(input.half)", "0.5"),
    ("lower(input.umlaut)", "ä"),
    ("upper(input.small_umlaut)", "Ä"),
    ("max(input.numbers)", 10),
    ("min(input.numbers)", 9),
    ("sort(input.numbers)", [9, 10]),
    ('object.union({"a": {"b": input.five}}, {"a": {"c": 2}})', {"a": {"b": 5, "c": 2}}),
    ('object.subset([input.five], {"a": 1})', NOTHING),
    ('strings.replace_n({"b": "12", "a": "aab"}, input.text)', "aab12c"),
    ('sprintf("%d", [input.large])', str(LARGE)),
    ('"\\u00e9" == input.accent', True),
    ("input.three / 7", 3 / 7),
    ("input.large % 3", LARGE % 3),
]
"""What OPA answers to what a policy may not use, for the embedded evaluator answers otherwise, without a word."""

LEFT_OUT_INPUT: Final[JsonObject] = {
    "three": 3,
    "five": 5,
    "half": 0.5,
    "large": LARGE,
    "numbers": [10, 9],
    "text": "abc",
    "umlaut": "Ä",
    "small_umlaut": "ä",
    "accent": "é",
}


def rule(name: str) -> str:
    """The rule of the bundle that asks for this one."""
    return f"ask_{name.replace('.', '_')}"


def every_builtin() -> Bundle:
    """A bundle with a rule for each, which takes its arguments from the input: nothing can be worked out before it is asked."""
    return asking({rule(name): _written(name) for name in sorted(EXAMPLES)})


def asking(expressions: Mapping[str, str]) -> Bundle:
    """A bundle with a rule for each expression."""
    rules = "".join(f"\n{name} := {expression}\n" for name, expression in expressions.items())
    return Bundle({"p.rego": f"package aureus\n\nimport rego.v1\n\nverdict := 1\n{rules}".encode()})


def _written(name: str) -> str:
    takes = len(EXAMPLES[name][0][0])
    return _FORMS.get(name) or f"{name}({', '.join(f'input.{argument}' for argument in 'abc'[:takes])})"


def arguments(given: list[Any]) -> JsonObject:
    """The input that holds them."""
    return dict(zip("abc", given, strict=False))
