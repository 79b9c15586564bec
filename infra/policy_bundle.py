"""A bundle of Rego policies as files: its identity, and what is refused in it before anything is evaluated."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import orjson

ENTRYPOINT: Final = "aureus/verdict"
DATA_FILE: Final = "data.json"

BUILTINS: Final = frozenset(
    """abs array.concat array.reverse array.slice ceil concat contains count endswith floor glob.match intersection is_array
    is_boolean is_null is_number is_object is_set is_string numbers.range object.filter object.get object.keys object.remove
    product regex.match replace round split sprintf startswith strings.any_prefix_match strings.any_suffix_match
    strings.reverse substring sum to_number trim trim_left trim_prefix trim_right trim_space trim_suffix type_name
    union""".split()
)
"""The functions a policy may call: pure, and answering here as in OPA (tests/test_builtins.py has examples of each). A verdict
is remembered because nothing here looks at a clock, a random number, the network or the environment. What the embedded
evaluator answers otherwise than OPA, such as `max`, which compares numbers as text, is not among them."""

OPERATORS: Final = frozenset("and equal gt gte internal.member_2 internal.member_3 lt lte minus mul neq or plus".split())
"""What the compiler calls the infix operators. There is no division: its last digits differ, and `%` cuts to 32 bits."""

_KEYWORDS: Final = frozenset("as default else every false if import in not null package set some true with".split())
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
      | (?P<symbol>[-+*/%=:<>!|&,;.(){}\[\]])
      | (?P<other>.)""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_VERB: Final = re.compile(r"%(?![sv%])")
_ESCAPE: Final = re.compile(r"""\\(["\\nrt]|(?P<other>.))""")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a bundle is refused: where, and which rule it breaks."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class BundleRefused(Exception):
    """The bundle breaks a rule of policies, or does not compile; nothing of it is in force."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class Bundle:
    """The files of a bundle by their path in it; the same bytes are checked, identified and evaluated."""

    files: Mapping[str, bytes]

    @classmethod
    def read(cls, directory: Path) -> "Bundle":
        paths = [*directory.rglob("*.rego"), *directory.glob(DATA_FILE)]
        return cls({path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(paths)})

    @cached_property
    def modules(self) -> dict[str, str]:
        """The sources that decide."""
        return {path: source for path, source in self._sources.items() if not path.endswith("_test.rego")}

    @cached_property
    def tests(self) -> dict[str, str]:
        """The sources that only test."""
        return {path: source for path, source in self._sources.items() if path.endswith("_test.rego")}

    @cached_property
    def _sources(self) -> dict[str, str]:
        return {path: content.decode(errors="replace") for path, content in self.files.items() if path.endswith(".rego")}

    @property
    def data(self) -> str:
        return self.files.get(DATA_FILE, b"{}").decode(errors="replace")

    @cached_property
    def version(self) -> str:
        """The id of what decides - sources and data, not the tests - by its bytes."""
        digests = {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items() if path not in self.tests}
        return hashlib.sha256(orjson.dumps(digests, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def test_entrypoints(self) -> list[str]:
        """The rules named `test_*` of the test files, as entrypoints."""
        found: dict[str, None] = {}
        for path, source in self.tests.items():
            module = _Module(path, source)
            found.update({f"{module.package}/{rule}": None for rule in module.rules if rule.startswith("test_")})
        return list(found)

    def definitions(self) -> dict[str, dict[str, bool]]:
        """The names that each file defines in the package `aureus`, and whether each is a function."""
        modules = [_Module(path, source) for path, source in self._sources.items()]
        return {
            module.path: {name: name in module.functions for name in module.rules} if module.package == "aureus" else {}
            for module in modules
        }

    def problems(self) -> list[Problem]:
        """What a reader of the files can refuse: bad bytes, `with`, unknown functions, no verdict."""
        found = list(_undecodable(self.files))
        modules = [_Module(path, source) for path, source in self._sources.items()]
        functions = frozenset(name for module in modules for name in module.functions)
        for module in modules:
            found.extend(module.problems(functions))
        deciding = [module for module in modules if module.path in self.modules]
        if not any(f"{module.package}/{rule}" == ENTRYPOINT for module in deciding for rule in module.rules):
            found.append(Problem(deciding[0].path if deciding else DATA_FILE, 1, "no rule `verdict` in package `aureus`: write one"))
        return sorted(found, key=lambda problem: (problem.file, problem.line))


def _undecodable(files: Mapping[str, bytes]) -> Iterator[Problem]:
    for path, content in files.items():
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            yield Problem(path, content[: error.start].count(b"\n") + 1, "not UTF-8: save it as UTF-8")
            continue
        if path != DATA_FILE:
            continue
        try:
            data: Any = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            yield Problem(path, error.lineno, f"not JSON: {error.msg}")
            continue
        if not isinstance(data, dict) or "aureus" in data:
            yield Problem(path, 1, "must be an object without the key `aureus`, which is the policies' own package")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(source: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(source):
        kind = match.lastgroup or "other"
        if kind != "space":
            yield _Token(kind, match.group(), line)
        line += match.group().count("\n")


class _Module:
    """One Rego file read as tokens: enough to see which rules it defines and which functions it calls.

    A statement starts with the first name on a line outside all brackets. That a body line can pass for one does no
    harm: the compiled plan is checked against the allow-list again; this reading is there to say file and line.
    """

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.tokens = list(_tokens(source))
        self.package = ""
        self.rules: dict[str, None] = {}
        self.functions: set[str] = set()
        self.aliases: set[str] = set()
        self._read()

    def _read(self) -> None:
        depth = 0
        previous = _Token("newline", "\n", 0)
        for index, token in enumerate(self.tokens):
            if token.kind == "symbol":
                depth += (token.text in "([{") - (token.text in ")]}")
            starts = depth == 0 and (previous.kind == "newline" or previous.text == "default")
            following = self.tokens[index + 1] if index + 1 < len(self.tokens) else previous
            if token.kind != "name":
                pass
            elif previous.text == "package":
                self.package = token.text.replace(".", "/")
            elif previous.text == "import":
                self.aliases.add(token.text.rpartition(".")[2])
            elif previous.text == "as":
                self.aliases.add(token.text)
            elif starts and token.text not in _KEYWORDS and "." not in token.text:
                self.rules[token.text] = None
                if following.text == "(":
                    self.functions.add(token.text)
            previous = token

    def problems(self, functions: frozenset[str]) -> Iterator[Problem]:
        if not self.package:
            yield Problem(self.path, 1, "no package: start with `package aureus`")
        yield from self._misread()
        for token, following in zip(self.tokens, [*self.tokens[1:], _Token("newline", "\n", 0)], strict=True):
            calls = following.text == "(" and following.kind == "symbol"
            if token.kind == "other":
                yield Problem(self.path, token.line, f"unexpected {token.text!r}: not Rego, or a string that does not end")
            elif token.kind == "symbol" and token.text == "]" and calls:
                yield Problem(self.path, token.line, "a computed function name: call functions by their plain name")
            elif token.kind != "name":
                continue
            elif token.text == "with":
                yield Problem(self.path, token.line, "`with` is not allowed: make the policy a function and call it with a question")
            elif calls and token.text not in _KEYWORDS and not self._knows(token.text, functions):
                yield Problem(self.path, token.line, f"`{token.text}` is neither defined here nor an allowed builtin")

    def _misread(self) -> Iterator[Problem]:
        """What the embedded evaluator would take for something else than OPA does."""
        for index, token in enumerate(self.tokens):
            if token.kind == "string" and token.text[0] == '"' and any(found["other"] for found in _ESCAPE.finditer(token.text)):
                yield Problem(self.path, token.line, f"an escape in {token.text}: write the character itself")
            if token.kind == "symbol" and token.text in "/%":
                yield Problem(self.path, token.line, f"a division (`{token.text}`): multiply instead")
            if token.text == "sprintf" and token.kind == "name":
                form = self.tokens[index + 2] if index + 2 < len(self.tokens) else token
                if form.kind != "string" or _VERB.search(form.text.replace("%%", "")):
                    yield Problem(self.path, token.line, "`sprintf` takes a written format with no verbs but %s (text) and %v (numbers)")

    def _knows(self, name: str, functions: frozenset[str]) -> bool:
        root = name.partition(".")[0]
        return name in BUILTINS or name in functions or (root != name and (root == "data" or root in self.aliases))
