"""The witness that a demo brings along: the real program, as a child beside the server.

It shows how witnessing works, and it notices a database that was restored behind it. It stands on the same machine as the
keys and the database, so against whoever runs all three it proves nothing, and everything that shows it says so.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from infra.settings import WitnessPlace
from infra.verifier.notes import BadNote, VerifierKey

RESTART_SECONDS: Final = 5.0
END_SECONDS: Final = 3.0
_log = logging.getLogger("aureus.witnesses")


class OwnWitness:
    """Keeps one running in `home`. `log_key` is asked at each start; `found` is told where the witness is."""

    def __init__(self, home: Path, log_key: Callable[[], VerifierKey], found: Callable[[WitnessPlace], None]) -> None:
        self._home, self._log_key, self._found = home, log_key, found
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Until cancelled; a witness that ended is started again."""
        while True:
            try:
                await self._once()
            except (OSError, BadNote) as error:
                _log.warning("no witness of its own can be started: %s", error)
            await asyncio.sleep(RESTART_SECONDS)

    def learn_key(self) -> None:
        """The log signs with another key: a witness learns that only by being told, at its start."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def _once(self) -> None:
        words = ("-m", "infra.witness_server", "--home", str(self._home), "--log", self._log_key().text())
        # In a session of its own: Ctrl-C is for the server, and the witness ends when its standard input does.
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            cwd=Path(__file__).parent.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            key, _, url = (await process.stdout.readline()).decode().strip().partition(" ")
            if url:
                self._found(WitnessPlace(VerifierKey.parse(key), url))
            await process.wait()
            _log.warning("the witness of its own ended with %d", process.returncode)
        finally:
            process.stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
