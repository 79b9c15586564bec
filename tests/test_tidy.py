"""The tree stays small, named and free of leftovers: style is a test, so nobody has to argue about it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from domain.contexts import CONTEXTS

ROOT = Path(__file__).parent.parent
PACKAGES = ("domain", "commands", "projections", "infra", "streams", "api")
FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60

LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b|pytest\.(mark\.)?(skip|xfail)|@unittest\.skip")
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home/\w+|Users/\w+|tmp/lab|opt/wheels)/")
INDEX_HOST = re.compile(
    r"--(extra-)?index-url|--find-links|\b(pypi\.org|pythonhosted\.org|repo1?\.maven\.|proxy\.golang\.org|registry\.npmjs)"
)

GENERATED = "aureus_verify.py"
"""One file made of many, which are short enough (tests/test_generated.py)."""

ENTRY_POINTS = {
    "api.cli.main",
    "api.cli.__main__",
    "api.cli.reference",
    "api.reference",
    "bench.__main__",
    "infra.archive.answering",
    "infra.archive.building",
    "infra.build",
    "infra.bundle_verifier",
    "infra.verifier.main",
    "infra.packing.process",
    "infra.recorder",
    "infra.sealing_helper",
    "tests.conftest",
}
"""Modules that nothing imports because something outside starts them: pyproject's script, `python -m`, pytest, PERSISTENCE_MODULE."""

MARKDOWN_HOMES = ("docs/", "policies/", "tests/data/", "tests/golden/")
MARKDOWN_AT_ROOT = {"README.md", "CHANGELOG.md"}


@cache
def files() -> tuple[str, ...]:
    """What git tracks, or would track."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return tuple(name for name in sorted(set(listed.stdout.splitlines())) if (ROOT / name).is_file())


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(text(name), name)


def python_files(*folders: str) -> list[str]:
    return [name for name in files() if name.endswith(".py") and (not folders or name.split("/")[0] in folders)]


def written_here() -> Iterator[str]:
    """Text that people wrote: not the inputs that tests were given, not the licence, and not this list of what is forbidden."""
    for name in files():
        if name.startswith(("tests/data/", "tests/golden/")) or name in {"LICENSE", "tests/test_tidy.py"}:
            continue
        if b"\0" not in (ROOT / name).read_bytes():
            yield name


def lines_matching(pattern: re.Pattern[str], names: Iterator[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name in names
        for number, line in enumerate(text(name).splitlines(), 1)
        if pattern.search(line)
    ]


def module_name(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_files_are_short_enough_to_be_read_at_one_sitting() -> None:
    def limit(name: str) -> int:
        return TEST_FILE_LINES_MAX if name.startswith(("tests/", "bench/")) else FILE_LINES_MAX

    lengths = {name: len(text(name).splitlines()) for name in python_files() if name != GENERATED}
    assert {name: length for name, length in lengths.items() if length > limit(name)} == {}


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{name}:{node.lineno}: {node.name} has {(node.end_lineno or node.lineno) - node.lineno + 1} lines"
        for name in python_files()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_every_module_opens_with_a_sentence() -> None:
    def opens_well(name: str) -> bool:
        docstring = ast.get_docstring(tree(name)) or ""
        first = docstring.partition("\n\n")[0].strip()
        return " " in first and first.endswith((".", "?", "!", ":", "`"))

    assert [name for name in python_files() if not opens_well(name)] == []


def test_nothing_is_left_for_later() -> None:
    assert lines_matching(LEFTOVER, written_here()) == []


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    assert lines_matching(MACHINE_PATH, written_here()) == []


def test_no_file_names_a_package_index() -> None:
    assert lines_matching(INDEX_HOST, written_here()) == []


def test_requirements_are_pinned_by_hash() -> None:
    for name in ("run", "dev", "tools"):
        lock = text(f"requirements/{name}.txt")
        pins = re.findall(r"^[\w.\[\],-]+==\S+", lock, re.MULTILINE)
        entries = re.findall(r"^[^\s#]", lock, re.MULTILINE)
        assert pins, name
        assert len(pins) == len(entries), f"requirements/{name}.txt holds a line that pins no version"
        assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=[^\s#])", lock, flags=re.MULTILINE)[1:])


def test_every_dependency_says_why_it_is_here() -> None:
    bare = [
        f"{name}: {line}"
        for name in files()
        if name.startswith("requirements/") and name.endswith(".in")
        for line in text(name).splitlines()
        if line and not line.startswith(("#", "-r")) and not re.search(r"\S\s+# \S+", line)
    ]
    assert bare == []


def imports(name: str) -> set[str]:
    """Dotted names in a file's import statements; of `from a import b` both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def loads(name: str) -> set[str]:
    """Dotted names in a file's strings: whole, as `python -m` takes them; put together, as in `import_module(f"api.{context}")`;
    or of a file beside it, as a process is started from.
    """
    package = module_name(name).rpartition(".")[0]
    words = set(CONTEXTS)
    prefixes = set()
    for node in ast.walk(tree(name)):
        match node:
            case ast.JoinedStr(values=[ast.Constant(value=str(prefix)), ast.FormattedValue()]) if prefix.endswith("."):
                prefixes.add(prefix)
            case ast.Constant(value=str(value)):
                words.add(f"{package}.{value.removesuffix('.py')}" if value.endswith(".py") else value.partition(":")[0])
            case _:
                pass
    return words | {prefix + word for prefix in prefixes for word in words}


def test_no_module_is_dead() -> None:
    """Code counts as used when code uses it; a test alone keeps nothing alive."""
    used_by_code = set().union(*(imports(name) | loads(name) for name in python_files(*PACKAGES, "bench", "scripts")))
    used_by_tests = set().union(*(imports(name) | loads(name) for name in python_files("tests")))
    dead = []
    for name in python_files(*PACKAGES, "tests"):
        module = module_name(name)
        used = used_by_tests if module.startswith("tests.") else used_by_code
        started = module in ENTRY_POINTS or Path(name).name.startswith("test_") or name.endswith("__init__.py")
        if module not in used and not started:
            dead.append(name)
    assert dead == []


def test_what_runs_imports_only_what_run_in_names() -> None:
    """What a test may import, the product may not: it is not there in production."""

    def normal(distribution: str) -> str:
        return re.sub(r"[-_.]+", "-", distribution).lower()

    declared = {normal(name) for name in re.findall(r"^[\w.-]+", text("requirements/run.in"), re.MULTILINE)}
    known = {package: {normal(name) for name in names} for package, names in packages_distributions().items()}
    undeclared = {
        f"{name}: {package}"
        for name in python_files(*PACKAGES)
        for package in {module.partition(".")[0] for module in imports(name)} - set(PACKAGES) - sys.stdlib_module_names
        if not declared & known.get(package, set())
    }
    assert undeclared == set()


def test_documents_live_in_docs() -> None:
    strays = [
        name
        for name in files()
        if name.lower().endswith((".md", ".rst")) and not name.startswith(MARKDOWN_HOMES) and name not in MARKDOWN_AT_ROOT
    ]
    assert strays == []


EXPORTS = {"domain": (), "commands": ("DECIDER", "DECIDERS"), "projections": ("PROJECTION",), "api": ("router",), "api.cli": ("app",)}
"""What whoever serves all contexts takes from each of a context's modules: one of these names."""


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_has_one_module_in_every_folder(context: str) -> None:
    homes = [{f"{folder}/{context}.py", f"{folder}/{context}/__init__.py"} for folder in (name.replace(".", "/") for name in EXPORTS)]
    tests = [name for name in files() if re.fullmatch(rf"tests/(\w+/)?test_{context}(_\w+)?\.py", name)]
    assert [sorted(home) for home in homes if len(home & set(files())) != 1] == []
    assert tests, f"no tests/test_{context}.py"
    for folder, names in EXPORTS.items():
        module = import_module(f"{folder}.{context}")
        assert not names or any(hasattr(module, name) for name in names), f"{module.__name__} exports none of {names}"


def decision_records() -> list[str]:
    return [name for name in files() if name.startswith("docs/adr/") and re.match(r"\d{4}-", Path(name).name)]


@pytest.mark.parametrize("name", decision_records())
def test_a_decision_record_names_the_check_that_holds_it(name: str) -> None:
    parts = re.split(r"^## (.+)\n", text(name), flags=re.MULTILINE)
    assert parts[1::2] == ["Context", "Decision", "Consequences", "Held by"]
    checks = re.findall(r"`([\w./-]+\.(?:py|toml)|Makefile|\.ci/run)(?:::\w+)?`", parts[-1])
    assert checks, "the last section names no test and no configured check"
    assert [check for check in checks if check not in files()] == []


def test_decision_records_are_numbered_without_a_gap() -> None:
    numbers = [int(Path(name).name[:4]) for name in decision_records()]
    assert numbers == list(range(1, len(numbers) + 1))
