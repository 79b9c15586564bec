"""Asking one bundle of policies a great many questions at once, on as many cores as there are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Final

import orjson

from commands.policy import ENGINE, Verdict
from infra.policy import PolicyEngine
from infra.policy_answers import refusal
from infra.policy_bundle import Bundle

ENGINES_MAX: Final = 4
WORTH_AN_ENGINE: Final = 200
"""Fewer questions are answered before another engine has started."""
IN_FLIGHT: Final = 64
TIMEOUT_S: Final = 1.0
PASSING: Final = frozenset({"timeout", "crash", "unavailable", "overloaded"})
"""Of the engine's reasons, those that lie in the moment and not in the policies."""
GIVE_UP_AFTER: Final = 5
"""Questions without an answer: policies that loop would otherwise be waited for a second each."""


async def ask_all(bundle: Bundle, questions: Sequence[bytes]) -> list[Verdict]:
    """The verdict on each question (canonical JSON); raises BundleRefused when the bundle does not start."""
    count = max(1, min(ENGINES_MAX, len(os.sched_getaffinity(0)), len(questions) // WORTH_AN_ENGINE))
    verdicts: list[Verdict] = [refusal("unavailable")] * len(questions)
    async with AsyncExitStack() as stack:
        engines = [PolicyEngine(bundle, timeout_s=TIMEOUT_S) for _ in range(count)]
        for engine in engines:
            stack.push_async_callback(engine.close)
        await asyncio.gather(*(engine.start() for engine in engines))
        unanswered = 0

        async def work(engine: PolicyEngine, share: Iterator[int]) -> None:
            nonlocal unanswered
            for index in share:
                verdicts[index] = await engine.check(orjson.loads(questions[index]))
                if not answered(verdicts[index]):
                    unanswered += 1
                    if unanswered == GIVE_UP_AFTER:
                        await asyncio.gather(*(one.close() for one in engines))
                if unanswered >= GIVE_UP_AFTER:
                    return

        shares = [iter(range(first, len(questions), count)) for first in range(count)]
        await asyncio.gather(*(work(engine, share) for engine, share in zip(engines, shares, strict=True) for _ in range(IN_FLIGHT)))
    return verdicts


def answered(verdict: Verdict) -> bool:
    """Whether the policies, asked again, would say it again: not so when the engine spoke for want of time or of a worker."""
    first = verdict.results[0]
    return first.policy != ENGINE or first.reason not in PASSING
