"""The one place where Rego runs: a process of its own, which may loop or crash without taking anybody with it.

It is started by its path and imports nothing of Aureus. Frames on stdin and stdout are a 4-byte big-endian length and
JSON. The first frame in is the bundle, the first out says whether it is in force; then each question, in order, gets
one answer: `{"value": ...}` or `{"failure": "undefined" | "error"}`.
"""

import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from regopy import Bundle, Interpreter, LogLevel, RegoError
from regopy import rego_shared as library

_C = library.rego
_BEFORE, _AFTER = '{"expressions":[', "]}"
_PR_SET_PDEATHSIG = 1
_COMPILE_ERROR = re.compile(r"\(error \d+:([^|\n]+)\|(\d+)\|\d+\s+\(errormsg \d+:([^\n]*?)\)\n")
_EVALUATION_ERROR = re.compile(r"\(errormsg \d+:([^\n]*)\)")


class Refusal(Exception):
    """The bundle does not compile or uses what is not allowed: `[{file, offset, message}]`."""

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        super().__init__(str(faults))
        self.faults = faults


class Evaluator:
    """A compiled bundle that answers questions."""

    def __init__(self, modules: dict[str, str], data: str, entrypoints: list[str], builtins: list[str]) -> None:
        self._rego = Interpreter()
        self._rego.log_level = LogLevel.NONE
        # A builtin that fails refuses the question; as something undefined, `not` would take it for a yes.
        self._rego.strict_built_in_errors = True
        try:
            for path, source in modules.items():
                self._rego.add_module(path, source)
            self._rego.add_data_json(data)
            self._compiled = self._rego.build(None, entrypoints)
        except (RegoError, ValueError) as error:
            raise Refusal(_compile_faults(str(error))) from error
        if not self._compiled.ok():
            raise Refusal(_compile_faults(str(self._compiled.node())))
        unknown = sorted(_builtins_called(self._rego, self._compiled) - set(builtins))
        if unknown:
            raise Refusal([_fault(f"`{name}` is not an allowed builtin") for name in unknown])
        self._handles = self._rego._impl, self._compiled._impl  # noqa: SLF001 - the library's own functions take them

    def answer(self, entrypoint: str, question: Any) -> bytes:
        """What the entrypoint says of the question, as JSON; the text is passed on as the interpreter wrote it."""
        try:
            text = self._said(entrypoint, question)
        except (RegoError, ValueError) as error:
            return json.dumps({"failure": "error", "detail": str(error)[:200]}).encode()
        if text in ("undefined", _BEFORE + _AFTER):
            return b'{"failure":"undefined"}'
        if not (text.startswith(_BEFORE) and text.endswith(_AFTER)):
            return b'{"failure":"error"}'
        return b'{"value":%b}' % text[len(_BEFORE) : -len(_AFTER)].encode()

    def _said(self, entrypoint: str, question: Any) -> str:
        """What `Interpreter` would make Python values of, in half the time; empty when the evaluation fails."""
        rego, compiled = self._handles
        given = library.rego_new_input()
        try:
            _add(given, question)
            library.rego_set_input(rego, given)
        finally:
            library.rego_free_input(given)
        output = library.rego_bundle_query_entrypoint(rego, compiled, entrypoint)
        try:
            return library.rego_output_string(output) if library.rego_output_ok(output) else ""
        finally:
            library.rego_free_output(output)

    def warm_up(self, entrypoint: str) -> None:
        """Answer once; some errors of a bundle, such as a recursion, show only then."""
        self._rego.set_input({})
        try:
            self._rego.query_bundle_entrypoint(self._compiled, entrypoint)
        except ValueError as error:
            text = error.doc if isinstance(error, json.JSONDecodeError) else str(error)
            raise Refusal([_fault(found) for found in _EVALUATION_ERROR.findall(text)] or [_fault(text[:200])]) from error


def _add(given: Any, value: Any) -> None:
    if isinstance(value, str):
        _C.regoInputString(given, value.encode())
    elif isinstance(value, dict):
        for key, member in value.items():
            _C.regoInputString(given, key.encode())
            _add(given, member)
            _C.regoInputObjectItem(given)
        _C.regoInputObject(given, len(value))
    elif isinstance(value, list):
        for member in value:
            _add(given, member)
        _C.regoInputArray(given, len(value))
    elif isinstance(value, bool):
        _C.regoInputBoolean(given, value)
    elif isinstance(value, int):
        _C.regoInputInt(given, value)
    elif value is None:
        _C.regoInputNull(given)
    else:
        _C.regoInputFloat(given, value)


def _fault(message: str, file: str = "", offset: int = 0) -> dict[str, Any]:
    return {"file": file, "offset": offset, "message": message}


def _compile_faults(text: str) -> list[dict[str, Any]]:
    found = [_fault(message, file, int(offset)) for file, offset, message in _COMPILE_ERROR.findall(text)]
    return found or [_fault(text[:200])]


def _builtins_called(rego: Interpreter, compiled: Bundle) -> set[str]:
    """What the compiled plan calls, whatever the sources look like."""
    with tempfile.TemporaryDirectory() as directory:
        rego.save_bundle(directory, compiled)
        plan = json.loads((Path(directory) / "plan.json").read_text())
    return {function["name"] for function in plan["static"].get("builtin_funcs", ())}


def _read(stream: BinaryIO) -> Any:
    header = stream.read(4)
    return json.loads(stream.read(int.from_bytes(header, "big"))) if len(header) == 4 else None


def _write(stream: BinaryIO, body: bytes) -> None:
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def _confine() -> BinaryIO:
    """Die with the parent, leave no core, be the first to go when memory runs out, keep stdout for frames alone.

    There is no limit on memory: the interpreter's allocator reserves 256 GiB of address space. The clock bounds it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def main() -> None:
    answers, questions = _confine(), sys.stdin.buffer
    if (bundle := _read(questions)) is None:
        return
    try:
        evaluator = Evaluator(**bundle)
        evaluator.warm_up(bundle["entrypoints"][0])
    except Refusal as refusal:
        _write(answers, json.dumps({"refused": refusal.faults}).encode())
        return
    _write(answers, b'{"ready":true}')
    while (frame := _read(questions)) is not None:
        _write(answers, evaluator.answer(frame["entrypoint"], frame["input"]))


if __name__ == "__main__":
    main()
