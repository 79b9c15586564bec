"""This process among others."""

from __future__ import annotations

import os
import socket


def this_process() -> str:
    """What its connections to PostgreSQL are called, so that others can say who leads: host and process id, in 63 bytes."""
    return f"{socket.gethostname()[:50]}:{os.getpid()}"
