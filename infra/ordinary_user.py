"""How a program that refuses to be root runs although we are: as somebody else, who still reaches what is ours.

Neither way needs a system account of its own or wider permissions on any folder, /root and AUREUS_HOME included.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OrdinaryUser:
    """The words before a command that make it run so, and the user id that its files belong to."""

    words: tuple[str, ...]
    owner_uid: int


def ordinary_user() -> OrdinaryUser | None:
    """Ourselves when we are not root; else the best way that this system allows, or None."""
    if os.geteuid() != 0:
        return OrdinaryUser((), os.geteuid())
    # The number must belong to some account: initdb asks for its name.
    account = next((entry for entry in pwd.getpwall() if entry.pw_uid != 0), None)
    if account is None:
        return None
    return _in_namespace(account) or _with_capability(account)


def _in_namespace(account: pwd.struct_passwd) -> OrdinaryUser | None:
    """A user namespace in which our own account has another number: to the kernel, its files are ours."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    words = (unshare, f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}")
    return OrdinaryUser(words, 0) if _works(words) else None


def _with_capability(account: pwd.struct_passwd) -> OrdinaryUser | None:
    """Another account that may pass through folders closed to it; for containers, which forbid namespaces."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return None
    only = "-all,+dac_override"
    words = (
        setpriv,
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        f"--inh-caps={only}",
        f"--ambient-caps={only}",
    )
    return OrdinaryUser(words, account.pw_uid) if _works(words) else None


def _works(words: tuple[str, ...]) -> bool:
    tried = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - our own words
    return tried.returncode == 0
