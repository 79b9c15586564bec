"""The policies in force as something that can answer: the bundle that a policy set comes to, and one engine for each.

The bundle is a pure function of the set, so that a decision can be asked again long after: the same set, the same bytes,
the same version. It runs unchanged on OPA.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, Protocol
from uuid import UUID

import orjson
from immutables import Map

from commands.policies import DECIDER, AdoptDefaults
from commands.policy import Verdict
from domain.kernel import Asked, Asker, JsonObject
from domain.policies import PolicyProposed, PolicySet, Rule, Scope
from domain.values import ActorKind, Role
from infra.fields import misnamed
from infra.measures import Verdicts
from infra.policy import EVALUATION_TIMEOUT_S, PolicyEngine
from infra.policy_answers import refusal
from infra.policy_bundle import DATA_FILE, Bundle, BundleRefused, Problem
from infra.policy_files import TEST_SUFFIX, written

STREAM: Final = "policyset:active"
FRAMEWORK: Final = "verdict"
"""The shared policy that combines what all others find."""
JUDGEMENTS_FILE: Final = "judgements.rego"
ENGINES_KEPT: Final = 3
START_AGAIN_S: Final = 5.0
_ATTRIBUTES: Final = (
    ("domains", "domain"),
    ("pii_levels", "pii_level"),
    ("jurisdictions", "jurisdiction"),
    ("environments", "environment"),
)
"""Members of a scope, and the facts they are about."""
_log = logging.getLogger(__name__)
_JUDGEMENTS: Final = re.compile(r"^judgements\(question\) := \[.*?^\]\n+", re.MULTILINE | re.DOTALL)
_HEAD: Final = """\
# Written by Aureus from the policies in force: which of them judge, and what each looks at.
package aureus

import rego.v1
"""
_COMBINED: Final = """
judgements(question) := array.concat(said, [governed_unsound(said)]) if {
	said := [
%s	]
} else := [[{
	"policy": "governed",
	"outcome": "block",
	"reason": "One of the policies in force gives no answer.",
}]]
"""
_TAIL: Final = """
# What is no list of findings would be passed over in silence by whoever combines them.
governed_unsound(said) := [finding |
	some index in %s
	not is_array(said[index])
	finding := {
		"policy": data.governed.judging[index],
		"outcome": "block",
		"reason": "It answers with what is no list of findings.",
	}
]

governed_named(action, whole, _) if action in whole

governed_named(action, _, contexts) if split(action, ".")[0] in contexts

governed_has(question, name, values) if question.facts[name] in values

governed_has(question, name, values) if question.facts.becomes[name] in values
"""


def assemble(active: Sequence[PolicyProposed]) -> Bundle:
    """The bundle these policies come to together; raises BundleRefused when they do not fit together."""
    problems: list[Problem] = []
    judging = [policy for policy in active if policy.type != "shared"]
    files = {path: content for policy in active for path, content in _own_files(policy)}
    files[JUDGEMENTS_FILE] = _judgements(judging).encode()
    files[DATA_FILE] = orjson.dumps(_data(active, judging, problems), option=orjson.OPT_SORT_KEYS)
    bundle = Bundle(files)
    problems.extend(_misfits(bundle, judging))
    if problems:
        raise BundleRefused(problems)
    return bundle


def _own_files(policy: PolicyProposed) -> Iterator[tuple[str, bytes]]:
    if policy.rego is not None:
        source = _JUDGEMENTS.sub("", policy.rego) if policy.policy_id == FRAMEWORK else policy.rego
        yield f"{policy.policy_id}.rego", source.encode()
    if policy.tests is not None:
        yield f"{policy.policy_id}{TEST_SUFFIX}", policy.tests.encode()


def _data(active: Sequence[PolicyProposed], judging: Sequence[PolicyProposed], problems: list[Problem]) -> JsonObject:
    """The lists that shared policies hold, side by side, and what Aureus itself says of the policies."""
    rules = {policy.policy_id: _finding(policy.policy_id, policy.rule) for policy in judging if policy.rule is not None}
    data: JsonObject = {"governed": {"judging": [policy.policy_id for policy in judging], "rules": rules}}
    for policy in active:
        for key, value in (policy.data or {}).items():
            if key in data:
                problems.append(Problem(f"{policy.policy_id}.json", 1, f"`{key}` is taken already: choose another name for the list"))
            data[key] = value
    problems.extend(misnamed(data))
    return data


def _finding(policy_id: str, rule: Rule) -> JsonObject:
    """What a rule finds whenever it applies; who approves is said where an approval is asked for, and only there."""
    asks = rule.outcome == "require_approval"
    said = rule.model_dump(mode="json", exclude=None if asks else {"approver_roles", "quorum", "approval_ttl_seconds"})
    return {"policy": policy_id, **said}


def _misfits(bundle: Bundle, judging: Sequence[PolicyProposed]) -> Iterator[Problem]:
    """A name belongs to one file, so that no policy can add to what another says; and each policy has the function of its name."""
    definitions = bundle.definitions()
    home: dict[str, str] = {}
    for path, names in sorted(definitions.items(), key=lambda item: (item[0] != JUDGEMENTS_FILE, item[0])):
        for name in names:
            if home.setdefault(name, path) != path:
                yield Problem(path, 1, f"`{name}` is defined in {home[name]} already: choose another name")
    for policy in judging:
        path = f"{policy.policy_id}.rego"
        if policy.rego is not None and not definitions[path].get(policy.policy_id, False):
            message = f"no function `{policy.policy_id}(question)` in package `aureus`: write it, or make the policy a shared one"
            yield Problem(path, 1, message)


def _judgements(judging: Sequence[PolicyProposed]) -> str:
    if not judging:
        return f"{_HEAD}\njudgements(_) := []\n"
    calls = [f"\t\t{_call(policy)}(question),\n" for policy in judging]
    functions = [_judged(policy) for policy in judging if _call(policy) != policy.policy_id]
    return _HEAD + _COMBINED % "".join(calls) + "".join(functions) + _TAIL % list(range(len(judging)))


def _call(policy: PolicyProposed) -> str:
    plain = policy.rego is not None and policy.scope == Scope()
    return policy.policy_id if plain else f"governed_{policy.policy_id}"


def _judged(policy: PolicyProposed) -> str:
    """A function that asks the policy within its scope alone; two complementary rules, so that undefined stays undefined."""
    name = policy.policy_id
    answer = f"{name}(question)" if policy.rego is not None else f"[data.governed.rules.{name}]"
    conditions = [f"\t{condition}\n" for condition in _conditions(policy.scope)]
    if not conditions:
        return f"\ngoverned_{name}(_) := {answer}\n"
    return (
        f"\ngoverned_{name}(question) := {answer} if governed_covers_{name}(question)\n"
        f"\ngoverned_{name}(question) := [] if not governed_covers_{name}(question)\n"
        f"\ngoverned_covers_{name}(question) if {{\n{''.join(conditions)}}}\n"
    )


def _conditions(scope: Scope) -> Iterator[str]:
    """Plain conditions with the values written out: the embedded evaluator goes wrong on loops over data."""
    if scope.actions:
        contexts = [action.removesuffix(".*") for action in scope.actions if action.endswith(".*")]
        whole = [action for action in scope.actions if not action.endswith(".*")]
        yield f"governed_named(question.action, {_rego(whole)}, {_rego(contexts)})"
    if scope.actor_kinds:
        yield f"question.actor.kind in {_rego(scope.actor_kinds)}"
    for member, fact in _ATTRIBUTES:
        if values := getattr(scope, member):
            yield f'governed_has(question, "{fact}", {_rego(values)})'


def _rego(value: Any) -> str:
    """A value as Rego writes it, which is JSON."""
    return orjson.dumps(value).decode()


def shipped_set(shipped: Bundle) -> PolicySet:
    """The set that a tenant has once it adopted these policies; raises BundleRefused when they are none."""
    asked = Asked(Asker("svc-bootstrap", "", frozenset({Role.ADMIN}), ActorKind.SERVICE), datetime.fromtimestamp(0, UTC), UUID(int=0))
    return DECIDER.replay(DECIDER.decide(DECIDER.initial, AdoptDefaults(policies=written(shipped.files)), asked))


def set_of(active: Sequence[PolicyProposed]) -> PolicySet:
    """A set that holds these versions alone, all in force."""
    versions = {policy.policy_id: policy for policy in active}
    known = {policy_id: (policy,) * policy.version for policy_id, policy in versions.items()}
    return PolicySet(versions=Map(known)).having((policy_id, policy.version) for policy_id, policy in versions.items())


class Engine(Protocol):
    """Whoever answers for one bundle: the embedded evaluator, or an OPA server."""

    async def start(self) -> None: ...

    async def check(self, question: JsonObject) -> Verdict: ...

    async def close(self) -> None: ...


class GovernedPolicies:
    """A PolicyPort: each tenant's commands are judged by what that tenant has in force, at first by what was shipped.

    One engine answers for each set in use, started by whoever asks first; those longest unused are ended.
    """

    def __init__(
        self, shipped: Bundle, *, timeout_s: float = EVALUATION_TIMEOUT_S, engine: Callable[[Bundle], Engine] | None = None
    ) -> None:
        self.shipped = shipped_set(shipped)
        self._shipped_bundle = shipped
        self._engine = engine or (lambda bundle: PolicyEngine(bundle, timeout_s=timeout_s))
        self.measured = Verdicts("embedded" if engine is None else "opa")
        self._books: OrderedDict[str, _Book] = OrderedDict()
        self._endings: set[asyncio.Task[None]] = set()

    def aside(self, timeout_s: float) -> GovernedPolicies:
        """Another one, for questions about the past: always embedded, so that nothing that judges now has to make room for it."""
        return GovernedPolicies(self._shipped_bundle, timeout_s=timeout_s)

    async def start(self) -> None:
        """Have the shipped policies answer; raises BundleRefused when they cannot."""
        await self._book(self.shipped).start()

    async def close(self) -> None:
        """End every engine; whoever still waits is refused."""
        for book in self._books.values():
            self._end(book.shut())
        self._books.clear()
        await asyncio.gather(*self._endings)

    async def rulebook(self, policies: PolicySet) -> _Book:
        return self._book(policies if policies.adopted else self.shipped)

    def _book(self, policies: PolicySet) -> _Book:
        book = self._books.get(policies.digest)
        if book is not None:
            self._books.move_to_end(policies.digest)
            return book
        book = self._books[policies.digest] = _Book(policies, self._engine, self.measured)
        if len(self._books) > ENGINES_KEPT:
            self._end(self._books.popitem(last=False)[1].end())
        return book

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(ending, name="policy engine ends")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


class _Book:
    """A Rulebook: the policies of one set. Its engine is started by the first question, once, whoever else asks meanwhile."""

    def __init__(self, policies: PolicySet, engine_of: Callable[[Bundle], Engine], measured: Verdicts) -> None:
        self._engine_of, self._measured = engine_of, measured
        self._engine: asyncio.Task[Engine] | None = None
        self._asking = 0
        self._ended = False
        self._start_again_at = 0.0
        try:
            self._bundle: Bundle | BundleRefused = assemble(policies.active())
            self.version = self._bundle.version
        except BundleRefused as refused:
            self._bundle, self.version = refused, policies.digest[:16]

    async def check(self, question: JsonObject) -> Verdict:
        """The verdict; where no engine starts, every question is refused."""
        self._asking += 1
        began = perf_counter()
        try:
            verdict = await (await self.start()).check(question)
        except (BundleRefused, OSError):
            verdict = refusal("unavailable")
        finally:
            self._asking -= 1
            if self._ended and not self._asking:
                await self.shut()
        self._measured.add(perf_counter() - began, unanswered=verdict.unanswered)
        return verdict

    async def start(self) -> Engine:
        """The running engine; raises BundleRefused or OSError, now and for a while, when it does not start."""
        now = asyncio.get_running_loop().time()
        failed = self._engine is not None and self._engine.done() and self._engine.exception() is not None
        if self._engine is None or (failed and now >= self._start_again_at):
            self._engine = asyncio.create_task(self._started(), name="policy engine starts")
            self._start_again_at = now + START_AGAIN_S
        return await asyncio.shield(self._engine)

    async def _started(self) -> Engine:
        try:
            if isinstance(self._bundle, BundleRefused):
                raise self._bundle
            engine = self._engine_of(self._bundle)
            await engine.start()
        except (BundleRefused, OSError) as error:
            _log.error("the policies %s do not start, so every question is blocked: %s", self.version, error)
            raise
        return engine

    async def end(self) -> None:
        """Nobody is handed this any more: close the engine once those who were have their answers."""
        self._ended = True
        if not self._asking:
            await self.shut()

    async def shut(self) -> None:
        """Close the engine, if there is one."""
        starting, self._engine = self._engine, None
        if starting is not None:
            with contextlib.suppress(BundleRefused, OSError):
                await (await starting).close()
