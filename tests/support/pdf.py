"""The text of a PDF that Aureus wrote, so that a test can read it."""

from __future__ import annotations

import re
import zlib
from typing import Final

_STREAM: Final = re.compile(rb"<<((?:(?!endobj).)*?)>>\s*stream\r?\n(.*?)\r?\nendstream", re.DOTALL)
_SHOWN: Final = re.compile(rb"/F(\d) [\d.]+ Tf|\(((?:\\.|[^\\)])*)\) Tj", re.DOTALL)
_MEANS: Final = re.compile(rb"<([0-9A-F]{4})> <([0-9A-F]+)>")
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_CONTROLS: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def text_of(document: bytes) -> str:
    """Everything that is shown, in the order it is drawn, one line for each piece."""
    streams = [zlib.decompress(body) if b"FlateDecode" in head else body for head, body in _STREAM.findall(document)]
    letters = [_letters(stream) for stream in streams if b"beginbfchar" in stream]
    return "\n".join(piece for stream in streams if b" Tj" in stream for piece in _pieces(stream, letters))


def _letters(cmap: bytes) -> dict[int, str]:
    """What each code of a font stands for."""
    return {int(code, 16): bytes.fromhex(means.decode()).decode("utf-16-be") for code, means in _MEANS.findall(cmap)}


def _pieces(stream: bytes, letters: list[dict[int, str]]) -> list[str]:
    found, font = [], 1
    for number, shown in _SHOWN.findall(stream):
        if number:
            font = int(number)
            continue
        raw = _ESCAPED.sub(lambda escaped: _CONTROLS.get(escaped[1], escaped[1]), shown)
        if font > len(letters):  # one of the fonts that every reader has: letters are bytes
            found.append(raw.decode("latin-1"))
        else:
            codes = [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]
            found.append("".join(letters[font - 1].get(code, "\ufffd") for code in codes))
    return found
