"""Verifies an Aureus pack, or a tile directory, from its bytes alone: `python aureus_verify.py pack.zip --keys trust.json`.

Exit codes: 0 verified; 8 not verified; 2 the command is wrong, or the file is not what it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Final

from infra.verifier.pack import NotAPack, Report, verify_pack
from infra.verifier.result import Result
from infra.verifier.tiles import NotATileDirectory, verify_tiles
from infra.verifier.trust import KEY_ID, BadTrust, Trust
from infra.verifier.workers import Workers

VERIFIED: Final = 0
NOT_VERIFIED: Final = 8
WRONG: Final = 2
SMALL_BYTES: Final = 32 << 20
"""Below this, starting processes takes longer than it saves."""
_REPORT_SECONDS: Final = 0.5


class WrongCommand(ValueError):
    """Something about the command or the files it names; the sentence says what."""


def verify(source: Path, trust: Trust, kept: Sequence[bytes] = (), processes: int | None = None, *, full: bool = True) -> Result:
    """Verifies a pack, or a folder of tiles; raises WrongCommand."""
    return verify_reporting(source, trust, kept, processes, lambda _what, _done, _of: None, full=full)


def verify_reporting(source: Path, trust: Trust, kept: Sequence[bytes], processes: int | None, report: Report, *, full: bool) -> Result:
    """`verify`, saying now and then how far it is."""
    try:
        large = source.is_dir() or source.stat().st_size > SMALL_BYTES
        with Workers(processes or (available_cores() if large else 1)) as workers:
            check = verify_tiles if source.is_dir() else verify_pack
            return check(source, trust, kept, workers, report, full=full)
    except (NotAPack, NotATileDirectory) as error:
        raise WrongCommand(f"{source} is neither a pack nor a tile directory: {error}") from None
    except OSError as error:
        raise WrongCommand(f"{source} cannot be read: {error.strerror or error}") from None
    except (BrokenProcessPool, MemoryError):
        raise WrongCommand(f"{source} could not be verified to the end: a process ended. Try --processes 1.") from None


def read_trust(file: Path | None, root_key: str | None) -> Trust:
    """What the files and options say is to be trusted; raises WrongCommand."""
    try:
        trust = Trust.parse(file.read_bytes()) if file is not None else Trust()
    except BadTrust as error:
        raise WrongCommand(f"{file} is not a trust file: {error}") from None
    except OSError as error:
        raise WrongCommand(f"{file} cannot be read: {error.strerror or error}") from None
    if root_key is not None and not KEY_ID.fullmatch(root_key):
        raise WrongCommand("--root-key is a key id: 64 hex digits in lower case")
    return trust if root_key is None else replace(trust, root_keys=(root_key,))


def read_kept(files: Sequence[Path]) -> list[bytes]:
    """Checkpoints that were kept; raises WrongCommand."""
    try:
        return [file.read_bytes() for file in files]
    except OSError as error:
        raise WrongCommand(f"{error.filename} cannot be read: {error.strerror}") from None


def available_cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="aureus_verify.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="PACK", help="a pack, or a folder with `checkpoint` and `tile/`")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="trust file (aureus-trust/v1): the root key and the witnesses you trust")
    parser.add_argument("--root-key", metavar="KEY_ID", help="the root key's id, from whoever you trust")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", action="append", default=[], help="one you kept; can be repeated")
    parser.add_argument("--fast", action="store_true", help="the tree and the chains alone: no event's signature")
    parser.add_argument("--processes", type=_positive, metavar="N", help="how many at once; as many as there are processors")
    parser.add_argument("--json", action="store_true", help="the result as one JSON document")
    given = parser.parse_args(arguments)
    try:
        trust, kept = read_trust(given.keys, given.root_key), read_kept(given.checkpoint)
        result = verify_reporting(given.source, trust, kept, given.processes, _reporter(), full=not given.fast)
    except WrongCommand as error:
        print(error, file=sys.stderr)
        return WRONG
    print(json.dumps(result.as_json()) if given.json else "\n".join(result.sentences()))
    return VERIFIED if result.ok else NOT_VERIFIED


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise ValueError
    return number


def _reporter() -> Report:
    """Says on a terminal how far it is; nothing where nobody watches."""
    if not sys.stderr.isatty():
        return lambda _what, _done, _of: None
    last = time.monotonic()

    def report(what: str, done: int, of: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            print(f"\r{what}: {done:,}" + (f" of {of:,}" if of else "") + "\x1b[K\r", end="", file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())
