"""The policy engine: asks a bundle of Rego policies about each command, and takes every missing answer for a no.

Rego runs in a worker process, never here: the interpreter can loop or crash. A question that outlasts its time gets the
worker killed and is blocked, alone; those behind it go to the next worker. Verdicts are remembered, for they are a pure
function of the bundle and the question.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from commands.policy import ENGINE, Verdict
from domain.kernel import JsonObject
from domain.policies import PolicySet
from infra.policy_answers import Failure, is_safe, key_of, refusal, verdict_of
from infra.policy_bundle import BUILTINS, ENTRYPOINT, OPERATORS, Bundle, BundleRefused, Problem

DEFAULT_BUNDLE: Final = Path(__file__).resolve().parent.parent / "policies"
EVALUATION_TIMEOUT_S: Final = 0.25
START_TIMEOUT_S: Final = 10.0
RESTART_PAUSE_S: Final = 0.5
LATE_READER_GRACE_S: Final = 0.02
"""When this process is late itself, the answer may lie unread in the pipe: give it one more turn of the loop."""

VERDICTS_REMEMBERED: Final = 10_000
QUESTIONS_WAITING_MAX: Final = 10_000
FRAME_BYTES_MAX: Final = 1 << 20

_COMMAND: Final = (sys.executable, "-P", str(Path(__file__).with_name("policy_worker.py")))
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    frame: bytes
    answer: asyncio.Future[bytes | Failure]


@dataclass(frozen=True, slots=True)
class RegoTest:
    """How one `test_*` rule of a bundle came out."""

    name: str
    passed: bool
    detail: str = ""


class PolicyEngine:
    """Answers questions from one bundle through one worker process; `start` it before, `close` it after."""

    def __init__(self, bundle: Bundle, *, timeout_s: float = EVALUATION_TIMEOUT_S) -> None:
        self._bundle = bundle
        self._timeout_s = timeout_s
        self._hello = b""
        self._remembered: OrderedDict[bytes, Verdict] = OrderedDict()
        self._shared: dict[bytes, asyncio.Future[bytes | Failure]] = {}
        self._waiting: deque[_Waiting] = deque()
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._overdue = False
        self._closing = False

    @property
    def version(self) -> str:
        return self._bundle.version

    async def rulebook(self, _policies: PolicySet) -> PolicyEngine:
        """Itself, whatever a tenant has in force: this engine holds one bundle."""
        return self

    async def start(self) -> None:
        """Load the bundle, or raise BundleRefused with every reason."""
        if problems := self._bundle.problems():
            raise BundleRefused(problems)
        self._hello = _hello(self._bundle, self._bundle.modules, [ENTRYPOINT])
        self._process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name="policy worker")
        self._keeper.add_done_callback(lambda _: self._refuse_all("unavailable"))

    async def close(self) -> None:
        """End the worker; whoever still waits is refused."""
        if self._keeper is None:
            return
        # Not cancelled: a worker that is just being started would be left behind.
        self._closing = True
        if self._process is not None:
            _kill(self._process)
        await self._keeper

    async def check(self, question: JsonObject) -> Verdict:
        """The verdict on a question; identical questions in flight share one evaluation."""
        key = key_of(question)
        if (known := self._remembered.get(key)) is not None:
            self._remembered.move_to_end(key)
            return known
        shared = self._shared.get(key)
        if shared is None:
            shared = self._ask(key)
        # Shielded: one caller that gives up must not take the answer from the others.
        answer = await asyncio.shield(shared)
        return self._judge(key, answer)

    def _ask(self, key: bytes) -> asyncio.Future[bytes | Failure]:
        answer: asyncio.Future[bytes | Failure] = asyncio.get_running_loop().create_future()
        if self._keeper is None or self._keeper.done() or self._closing:
            answer.set_result("unavailable")
        elif len(self._waiting) >= QUESTIONS_WAITING_MAX:
            answer.set_result("overloaded")
        elif not is_safe(key):
            answer.set_result("unsafe_text")
        else:
            self._shared[key] = answer
            answer.add_done_callback(lambda _: self._shared.pop(key, None))
            self._waiting.append(_Waiting(_frame(b'{"entrypoint":"%b","input":%b}' % (ENTRYPOINT.encode(), key)), answer))
            if self._process is not None:
                self._send(self._process, self._waiting[-1])
        return answer

    def _judge(self, key: bytes, answer: bytes | Failure) -> Verdict:
        """The verdict that an answer stands for. What is not an answer of the bundle is not remembered."""
        if isinstance(answer, str):
            return refusal(answer)
        known = self._remembered.get(key)
        if known is not None:
            return known
        verdict = verdict_of(answer)
        if verdict.results[0].policy != ENGINE:
            self._remembered[key] = verdict
            if len(self._remembered) > VERDICTS_REMEMBERED:
                self._remembered.popitem(last=False)
        return verdict

    async def _keep(self) -> None:
        """Keep a worker running: serve, and when it is gone refuse the question it fell over, then replace it."""
        while (process := self._process) is not None or not self._closing:
            if process is not None:
                failure = await self._serve(process)
                self._process = None
                self._stop_clock()
                await _end(process)
                if self._closing:
                    return
                if self._waiting:
                    _settle(self._waiting.popleft(), failure)
                _log.warning("policy worker %s ended (%s); replacing it", process.pid, failure)
            await self._replace()

    async def _replace(self) -> None:
        """Start another worker and hand it what waits; while none starts, nothing waits in vain."""
        try:
            process = await self._spawn()
        except (BundleRefused, OSError) as error:
            _log.error("no policy worker starts, so every question is blocked: %s", error)
            self._refuse_all("unavailable")
            await asyncio.sleep(RESTART_PAUSE_S)
            return
        self._process = process
        self._overdue = False
        if self._closing:
            _kill(process)
        for waiting in self._waiting:
            self._send(process, waiting)

    async def _serve(self, process: asyncio.subprocess.Process) -> Failure:
        """Answer in order until the worker is gone; says why it went."""
        assert process.stdout is not None
        while True:
            try:
                answer = await _read_frame(process.stdout)
            except asyncio.IncompleteReadError:
                return "timeout" if self._overdue else "crash"
            except ValueError:
                return "garbage"
            if not self._waiting:
                return "garbage"
            _settle(self._waiting.popleft(), answer)
            self._wind_clock(process)

    def _send(self, process: asyncio.subprocess.Process, waiting: _Waiting) -> None:
        assert process.stdin is not None
        process.stdin.write(waiting.frame)
        if waiting is self._waiting[0]:
            self._wind_clock(process)

    def _wind_clock(self, process: asyncio.subprocess.Process) -> None:
        """The clock runs for the question under evaluation alone: a long queue is not a slow policy."""
        self._stop_clock()
        if self._waiting:
            self._clock = asyncio.get_running_loop().call_later(self._timeout_s, self._expire, process)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _expire(self, process: asyncio.subprocess.Process) -> None:
        self._clock = asyncio.get_running_loop().call_later(LATE_READER_GRACE_S, self._kill_overdue, process)

    def _kill_overdue(self, process: asyncio.subprocess.Process) -> None:
        self._overdue = True
        _kill(process)

    def _refuse_all(self, failure: Failure) -> None:
        while self._waiting:
            _settle(self._waiting.popleft(), failure)

    async def _spawn(self) -> asyncio.subprocess.Process:
        """A worker with the bundle loaded and warm. It inherits no environment: there is nothing in it to leak."""
        process = await asyncio.create_subprocess_exec(
            *_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, limit=FRAME_BYTES_MAX, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(self._hello)
            async with asyncio.timeout(START_TIMEOUT_S):
                answer: JsonObject = orjson.loads(await _read_frame(process.stdout))
            _require_ready(self._bundle, answer)
        except (TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            await _end(process)
            reason = f"the evaluator does not survive the bundle ({type(error).__name__})"
            raise BundleRefused([Problem(ENTRYPOINT, 1, reason)]) from error
        except BaseException:
            await _end(process)
            raise
        return process


def check_bundle(directory: Path) -> list[Problem]:
    """Why the bundle in a folder cannot be loaded, its tests included; nothing when it can."""
    bundle = Bundle.read(directory)
    problems = bundle.problems()
    if not problems:
        try:
            _consult(bundle, [ENTRYPOINT], [])
        except BundleRefused as refused:
            problems = refused.problems
    return problems


def run_tests(bundle: Bundle) -> list[RegoTest]:
    """Evaluate each `test_*` rule of the bundle; one passes when it is true. Raises BundleRefused."""
    if problems := bundle.problems():
        raise BundleRefused(problems)
    tests = bundle.test_entrypoints()
    answers = _consult(bundle, [ENTRYPOINT, *tests], tests)
    outcomes: list[Any] = [answer.get("value", answer.get("failure")) for answer in answers]
    outcomes += ["the evaluator crashed or took too long"] * (len(tests) - len(answers))
    return [RegoTest(name, outcome is True, "" if outcome is True else str(outcome)) for name, outcome in zip(tests, outcomes, strict=True)]


def _consult(bundle: Bundle, entrypoints: list[str], asked: list[str]) -> list[JsonObject]:
    """Load the whole bundle in a worker of its own, ask the entrypoints, and end it."""
    frames = [_frame(orjson.dumps({"entrypoint": entrypoint, "input": {}})) for entrypoint in asked]
    sent = _hello(bundle, {**bundle.modules, **bundle.tests}, entrypoints) + b"".join(frames)
    try:
        done = subprocess.run(_COMMAND, input=sent, stdout=subprocess.PIPE, env={}, timeout=START_TIMEOUT_S, check=False)  # noqa: S603 - our own file
        received = done.stdout
    except subprocess.TimeoutExpired as expired:
        received = expired.stdout or b""
    answers: list[JsonObject] = []
    while len(received) >= 4 and len(received) >= (end := 4 + int.from_bytes(received[:4], "big")):
        answers.append(_read_answer(received[4:end]))
        received = received[end:]
    if not answers:
        raise BundleRefused([Problem(entrypoints[0], 1, "the evaluator does not survive the bundle")])
    _require_ready(bundle, answers[0])
    return answers[1:]


def _read_answer(frame: bytes) -> JsonObject:
    try:
        answer: JsonObject = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return {"failure": "garbage"}
    return answer


def _hello(bundle: Bundle, modules: dict[str, str], entrypoints: list[str]) -> bytes:
    allowed = sorted(BUILTINS | OPERATORS)
    data = orjson.dumps(orjson.loads(bundle.data)).decode()  # the evaluator knows no \u escapes
    return _frame(orjson.dumps({"modules": modules, "data": data, "entrypoints": entrypoints, "builtins": allowed}))


def _require_ready(bundle: Bundle, answer: JsonObject) -> None:
    if "ready" in answer:
        return
    problems = []
    for fault in answer["refused"]:
        source = bundle.files.get(fault["file"], b"")
        file = fault["file"] or ENTRYPOINT
        problems.append(Problem(file, source[: fault["offset"]].count(b"\n") + 1, fault["message"]))
    raise BundleRefused(problems)


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


async def _read_frame(stream: asyncio.StreamReader) -> bytes:
    size_bytes = int.from_bytes(await stream.readexactly(4), "big")
    if size_bytes > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {size_bytes} bytes")
    return await stream.readexactly(size_bytes)


def _settle(waiting: _Waiting, answer: bytes | Failure) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(answer)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it may be gone and not yet reaped
            process.kill()


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill(process)
    await process.communicate()  # drains and closes its pipes, then waits
