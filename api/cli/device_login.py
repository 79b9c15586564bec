"""`aureus login --device`: somebody lets this command line in, at their identity provider, in a browser that may be anywhere."""

from __future__ import annotations

import time
from typing import Final

from api.cli.client import DEVICE, DEVICE_SESSION, Client
from api.cli.failures import Failure
from api.cli.profile import Token

PAUSE_SECONDS: Final = 5
"""By which one that is asked to slow down waits longer (RFC 8628 s.3.5)."""


def log_in_by_device(client: Client) -> Token:
    """The tokens of whoever lets this command line in, before the code runs out."""
    shown = client.ask_openly(DEVICE, {})
    where = shown.get("verification_uri_complete") or shown["verification_uri"]
    client.out.note(f"Open {where} and see that it shows {shown['user_code']}; this waits until you have logged in there.")
    interval, until = shown["interval"], time.monotonic() + shown["expires_in"]
    while True:
        time.sleep(interval)
        try:
            body = client.ask_openly(DEVICE_SESSION, {"device_code": shown["device_code"]})
        except Failure as failure:
            if failure.code not in {"authorization_pending", "slow_down"} or time.monotonic() > until:
                raise
            interval += PAUSE_SECONDS if failure.code == "slow_down" else 0
        else:
            return client.keep(body, body["actor"])
