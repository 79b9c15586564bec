"""The verifier as one file that stands alone: `python -m infra.bundle_verifier` writes aureus_verify.py from `infra/verifier/`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

PACKAGE: Final = "infra.verifier"
MODULES: Final = Path(__file__).parent / "verifier"
FILE: Final = Path(__file__).parent.parent / "aureus_verify.py"
COMMAND: Final = "python -m infra.bundle_verifier"

_OPENING: Final = '''#!/usr/bin/env python3
"""{sentence}

This one file is all it takes, with Python 3.11 and pynacl; it reads what it is given and asks nobody.
"""

# Made from infra/verifier/ by `{command}`, module by module, unchanged: edit those. Apache License 2.0.
'''


class CannotBundle(ValueError):
    """The modules do not fit into one file; says which name is in the way."""


@cache
def bundled() -> str:
    """The program's text."""
    modules = list(_in_order("main", []))
    trees = {name: ast.parse(_source(name)) for name in modules}
    _require_distinct(trees)
    sentence = (ast.get_docstring(trees["main"]) or "").strip()
    parts = [_OPENING.format(sentence=sentence, command=COMMAND), "\nfrom __future__ import annotations\n\n", "\n".join(_imports(trees))]
    for name in modules:
        parts.append(f"\n\n\n# -- {name}: {(ast.get_docstring(trees[name]) or '').partition(chr(10))[0]}\n\n")
        parts.append(_body(_source(name), trees[name]))
    return "".join(parts).rstrip() + "\n"


def main() -> None:
    FILE.write_text(bundled(), encoding="utf-8")


def _source(name: str) -> str:
    return (MODULES / f"{name}.py").read_text(encoding="utf-8")


def _in_order(name: str, seen: list[str]) -> Iterator[str]:
    """A module after all those it imports."""
    if name in seen:
        return
    seen.append(name)
    for node in ast.parse(_source(name)).body:
        if isinstance(node, ast.ImportFrom) and _is_own(node):
            yield from _in_order(str(node.module).removeprefix(f"{PACKAGE}."), seen)
    yield name


def _imports(trees: dict[str, ast.Module]) -> list[str]:
    """What all modules import from elsewhere, each name once."""
    whole: set[str] = set()
    named: dict[str, set[str]] = {}
    for node in (node for tree in trees.values() for node in tree.body):
        if isinstance(node, ast.Import):
            whole.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and not _is_own(node) and node.module != "__future__":
            named.setdefault(str(node.module), set()).update(ast.unparse(alias) for alias in node.names)
    return [*sorted(whole), *(f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(named.items()))]


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_own(node: ast.stmt) -> bool:
    """Whether a statement imports names from a module of the package, which all stand in the one file."""
    if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith(PACKAGE):
        return False
    if node.module == PACKAGE or any(alias.asname for alias in node.names):
        raise CannotBundle(f"`{ast.unparse(node)}`: names are imported from modules, under the names they have there")
    return True


def _require_distinct(trees: dict[str, ast.Module]) -> None:
    """No two modules define one name: in one file the second would take the place of the first."""
    homes: dict[str, str] = {}
    for module, tree in trees.items():
        for name in {name for node in tree.body for name in _defined(node)}:
            if homes.setdefault(name, module) != module:
                raise CannotBundle(f"{name} is defined in {homes[name]} and in {module}: rename one of them")


def _defined(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case _:
            pass


def _body(source: str, tree: ast.Module) -> str:
    """A module's text without its docstring and its imports; `main` is called where the file is run."""
    lines = source.splitlines(keepends=True)
    left_out = [node for node in tree.body if _is_import(node)]
    if isinstance(tree.body[0], ast.Expr):
        left_out.append(tree.body[0])
    for node in left_out:
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[number] = ""
    return "".join(lines).strip() + "\n"


if __name__ == "__main__":
    main()
