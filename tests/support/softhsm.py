"""A real PKCS#11 token of a test's own: SoftHSM, with its files in a temporary folder, so that it can be taken away and put back."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import pkcs11
import pytest

from infra.pkcs11_keys import Pkcs11Keys
from infra.settings import TokenPlace

MODULE: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
LABEL: Final = "aureus-tests"
PIN: Final = "not-to-be-seen"


class SoftHsm:
    """One token, for the process that has `configuration` in SOFTHSM2_CONF."""

    def __init__(self, folder: Path) -> None:
        self._tokens, self._drawer = folder / "tokens", folder / "drawer"
        self.configuration = folder / "softhsm2.conf"

    def make(self) -> None:
        if not MODULE.is_file():
            pytest.fail(f"{MODULE} is missing; install it: scripts/debian.sh softhsm2", pytrace=False)
        self._tokens.mkdir(parents=True)
        self.configuration.write_text(f"directories.tokendir = {self._tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.add_token()

    def add_token(self) -> None:
        command = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--so-pin", "of-the-officer", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True, env={"SOFTHSM2_CONF": str(self.configuration)})

    def place(self, *roles: str, label: str = LABEL, pin: str = PIN) -> TokenPlace:
        return TokenPlace(MODULE, label, roles or ("log", "service"), pin)

    def keys(self, *made: str) -> Pkcs11Keys:
        """A connection to the token, in which a key of each of these roles was made."""
        keys = Pkcs11Keys(self.place())
        for role in made:
            keys.generate(role)
        return keys

    def take_away(self) -> None:
        self._tokens.rename(self._drawer)
        self._tokens.mkdir()

    def put_back(self) -> None:
        self._tokens.rmdir()
        self._drawer.rename(self._tokens)

    @staticmethod
    def let_go() -> None:
        """Has this process forget the token: a library reads its configuration once."""
        with suppress(pkcs11.PKCS11Error):
            pkcs11.lib(str(MODULE)).finalize()
