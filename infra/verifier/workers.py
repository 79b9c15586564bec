"""Several processes that check stretches of the log at the same time, and answer in the order they were asked."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Self

from infra.verifier.checking import Findings, Told, check
from infra.verifier.sources import Source


class Workers:
    """So many processes; with one, it is this one.

    What is made here are trees of texts and numbers, never rings: looking for rings would take a tenth of the time, so nobody does.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        # Started afresh, not forked: whoever verifies may have threads, and this has to do the same everywhere.
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), gc.disable) if processes > 1 else None

    def ask(self, source: Source, told: Told) -> Future[Findings]:
        if self._pool is not None:
            return self._pool.submit(check, source, told)
        answer: Future[Findings] = Future()
        answer.set_result(check(source, told))
        return answer

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        self._collecting = gc.isenabled()
        gc.disable()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._collecting:
            gc.enable()
        self.close()
