"""Policies judged by an OPA server: the same bundle, unchanged, pushed to it and asked over its REST API; no answer is a no.

The server is Aureus' own and holds one bundle at a time. A module beside the bundle says which, and every answer repeats
it: what another bundle, half a bundle or an OPA that was started again says is never taken for an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import orjson

from commands.policy import Verdict
from domain.kernel import JsonObject
from domain.policies import PolicySet
from infra.circuit import Circuit, CircuitOpen
from infra.policy_answers import Failure, is_safe, key_of, refusal, verdict_of
from infra.policy_bundle import Bundle, BundleRefused, Problem

ANSWER_TIMEOUT_S: Final = 1.0
LOAD_TIMEOUT_S: Final = 10.0
FAILURES: Final = 5
"""In a row, and nobody asks it for a while. One policy that loops fails as well, and is not to be taken for the server."""
REST_SECONDS: Final = 1.0
ASKED_AT_ONCE: Final = 8
"""More only gets in the way of each other: the HTTP client is what takes the time."""

_OURS: Final = "aureus/"
_MARK: Final = "/v1/policies/aureus-in-force"
# As the embedded evaluator does, OPA is to take a builtin that fails for an error, not for something undefined.
_ASK: Final = "/v1/data/aureus_in_force?strict-builtin-errors=true"
_log = logging.getLogger(__name__)


class _Call(NamedTuple):
    method: str
    path: str
    content: str = ""


class OpaServer:
    """The server at a URL, and what it holds; `close` it after."""

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=ANSWER_TIMEOUT_S)
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self._loading = asyncio.Lock()
        self.circuit = Circuit("opa", "No policy answers, so every command is refused.", failures=FAILURES, rest_seconds=REST_SECONDS)

    def engine(self, bundle: Bundle) -> OpaEngine:
        """Who answers for a bundle here."""
        return OpaEngine(self, bundle)

    async def close(self) -> None:
        await self._client.aclose()

    async def load(self, bundle: Bundle) -> None:
        """Have the server hold this bundle and nothing else of ours; raises BundleRefused or ConnectionError."""
        async with self._loading:
            await self._load(bundle)

    async def ask(self, bundle: Bundle, question: bytes) -> Verdict:
        """What the bundle says to a question; it is loaded first when the server holds another."""
        verdict = await self._answer(bundle, question)
        if verdict is None:
            async with self._loading:  # until this question is answered, nobody loads anything else
                verdict = await self._answer(bundle, question)
                if verdict is None:
                    await self._load(bundle)
                    verdict = await self._answer(bundle, question)
        return verdict or refusal("unavailable")

    async def _answer(self, bundle: Bundle, question: bytes) -> Verdict | None:
        """None when it is not this bundle that answers."""
        try:
            # Its time runs once it is asked: a long queue is not a slow policy.
            async with self._asking:
                with self.circuit.trying(httpx.TransportError):
                    answer = await self._client.post(_ASK, content=b'{"input":%b}' % question)
        except CircuitOpen:
            return refusal("unavailable")
        except httpx.TimeoutException:
            return refusal("timeout")
        except httpx.HTTPError as error:
            _log.error("OPA at %s does not answer: %r", self.url, error)
            return refusal("unavailable")
        if answer.status_code != httpx.codes.OK:
            return refusal(_failure(answer))
        try:
            said: Any = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            return refusal("garbage")
        if not isinstance(said, dict):
            return refusal("garbage")
        found = said.get("result")
        if not isinstance(found, dict) or found.get("version") != bundle.version:
            return None
        return verdict_of(orjson.dumps({"value": found["verdict"]})) if "verdict" in found else refusal("undefined")

    async def _load(self, bundle: Bundle) -> None:
        await self._settle([_Call("DELETE", _MARK)])
        await self._settle(_Call("DELETE", f"/v1/policies/{quote(known)}") for known in await self._known() if known.startswith(_OURS))
        await self._settle([_Call("PUT", "/v1/data", bundle.data)])
        await self._settle(_Call("PUT", f"/v1/policies/{_OURS}{quote(path)}", source) for path, source in bundle.modules.items())
        mark = f'package aureus_in_force\n\nversion := "{bundle.version}"\n\nverdict := data.aureus.verdict\n'
        await self._settle([_Call("PUT", _MARK, mark)])

    async def _known(self) -> list[str]:
        """The ids of the modules that the server holds."""
        listed = await self._call(_Call("GET", "/v1/policies"))
        try:
            return [policy["id"] for policy in orjson.loads(listed.content)["result"]]
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise ConnectionError(f"what answers at {self.url} is no OPA server") from error

    async def _settle(self, calls: Iterable[_Call]) -> None:
        """Make all calls, in an order that OPA accepts: no module may call what is not there, or no longer."""
        left = list(calls)
        while left:
            refused = [(call, answer) for call in left if (answer := await self._call(call)).is_client_error]
            if len(refused) == len(left):
                raise BundleRefused([_problem(call, answer) for call, answer in refused])
            left = [call for call, _ in refused]

    async def _call(self, call: _Call) -> httpx.Response:
        try:
            answer = await self._client.request(call.method, call.path, content=call.content.encode(), timeout=LOAD_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise ConnectionError(f"OPA at {self.url} does not answer: {error!r}") from error
        if answer.is_server_error or answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ConnectionError(f"OPA at {self.url} refuses {call.method} {call.path} with {answer.status_code}")
        gone = call.method == "DELETE" and answer.status_code == httpx.codes.NOT_FOUND
        return httpx.Response(httpx.codes.NO_CONTENT) if gone else answer


class OpaEngine:
    """Answers questions from one bundle through an OPA server: what `PolicyEngine` is for the embedded evaluator."""

    def __init__(self, server: OpaServer, bundle: Bundle) -> None:
        self._server, self._bundle = server, bundle

    @property
    def version(self) -> str:
        return self._bundle.version

    async def rulebook(self, _policies: PolicySet) -> OpaEngine:
        """Itself, whatever a tenant has in force: this engine holds one bundle."""
        return self

    async def start(self) -> None:
        """Load the bundle; raises BundleRefused with every reason, or ConnectionError."""
        if problems := self._bundle.problems():
            raise BundleRefused(problems)
        await self._server.load(self._bundle)

    async def close(self) -> None:
        """Nothing of its own is left: the next bundle takes the place of this one."""

    async def check(self, question: JsonObject) -> Verdict:
        """The verdict on a question; never raises for want of one."""
        key = key_of(question)
        if not is_safe(key):
            return refusal("unsafe_text")
        try:
            return await self._server.ask(self._bundle, key)
        except (BundleRefused, ConnectionError) as error:
            _log.error("the policies %s cannot be loaded: %s", self.version, error)
            return refusal("unavailable")


def _failure(answer: httpx.Response) -> Failure:
    """OPA answers 500 when the evaluation itself fails: rules that contradict each other, a builtin that fails."""
    return "error" if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR else "unavailable"


def _problem(call: _Call, answer: httpx.Response) -> Problem:
    """What OPA says against a module."""
    file = call.path.rpartition(_OURS)[2]
    try:
        fault = orjson.loads(answer.content)["errors"][0]
        return Problem(file, fault["location"]["row"], fault["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return Problem(file, 1, f"OPA refuses it with {answer.status_code}: {answer.text[:200]}")
