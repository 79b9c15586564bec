"""What can be seen without asking anybody: settings, files, the disk, and to whom the server is open."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from infra.doctor.findings import Finding, judged, named, well
from infra.key_files import KeystoreError
from infra.keystore import ROLES
from infra.pkcs11_keys import open_keystore
from infra.settings import Settings

FREE_PERCENT: Final = 10
RUNS_OUT_WITHIN: Final = timedelta(days=14)
FREE_BYTES_MIN: Final = 512 * 1024 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_SECRET_WORDS: Final = ("PASSWORD", "TOKEN", "SECRET", "PIN", "ACCESS_KEY")
_NO_SECRETS: Final = frozenset({"AUREUS_PKCS11_TOKEN", "AUREUS_TOKEN_HOURS"})


def look_at_machine(settings: Settings, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Every check of this module. `environment` is what the server was started with."""
    yield _disk(settings)
    yield from _keys(settings)
    yield _blobs(settings)
    yield from _exposure(settings)
    yield _secrets(environment)
    yield _certificates(settings)


def _disk(settings: Settings) -> Finding:
    room = shutil.disk_usage(settings.home)
    percent = 100 * room.free / room.total
    found = f"{room.free // 2**20:,} MiB of {room.total // 2**20:,} are free ({percent:.0f} %) under {settings.home}"
    remedy = "Make room there, or move AUREUS_HOME to a larger volume: commands are refused once it is full."
    return judged("disk.home", found, remedy, warn=percent < FREE_PERCENT, fail=room.free < FREE_BYTES_MIN)


def _keys(settings: Settings) -> Iterator[Finding]:
    folder = settings.keys_dir
    if not folder.exists():
        yield Finding("keys.present", "fail", f"{folder} is not there", "Put the keys back from your backup; a first start makes new ones.")
        return
    open_to_others = [path.name for path in (folder, *sorted(folder.rglob("*"))) if path.stat().st_mode & _OTHERS]
    remedy = f"Close them: chmod -R go-rwx {folder}"
    found = f"others may read {named(open_to_others)}" if open_to_others else f"nobody else reads {folder}"
    yield judged("keys.modes", found, remedy, fail=bool(open_to_others))
    if open_to_others:
        return
    try:
        keystore = open_keystore(settings)
    except KeystoreError as error:
        yield Finding("keys.present", "fail", f"{error.field}: {error.rule}", error.remedy)
    else:
        yield well(
            "keys.present", f"a key for each of {', '.join(ROLES)}; {len(keystore.key_encryption_keys().ids())} of them for the vault"
        )


def _blobs(settings: Settings) -> Finding:
    if settings.s3 is not None:
        return well("blobs.place", f"in the bucket {settings.s3.bucket} at {settings.s3.endpoint}")
    folder, probe = settings.blobs_dir, settings.blobs_dir / ".doctor"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.write_bytes(b"written to see that it can be")
        probe.unlink()
    except OSError as error:
        return Finding("blobs.writable", "fail", f"{folder} cannot be written: {error.strerror}", "Let Aureus write there, or make room.")
    return well("blobs.writable", f"{folder} takes artifacts")


def _exposure(settings: Settings) -> Iterator[Finding]:
    here = _is_loopback(settings.host)
    remedy = "Put a reverse proxy that speaks TLS before it, bind it to 127.0.0.1 (AUREUS_HOST), and name the proxy as trusted."
    proxied = bool(settings.front.trusted_proxies)
    reach = "this machine alone reaches it" if here else f"it listens on {settings.host}, and speaks no TLS itself"
    yield judged("exposure.tls", reach, remedy, warn=not here and proxied, fail=not here and not proxied)
    demo = settings.demo and settings.demo_logins_file.exists()
    found = f"the demo's logins are on, with passwords in {settings.demo_logins_file}" if demo else "no demo logins"
    remedy = "Set AUREUS_DEMO=off, suspend them (aureus actors suspend), and remove the file."
    yield judged("exposure.demo_logins", found, remedy, warn=demo and here, fail=demo and not here)


def _certificates(settings: Settings) -> Finding:
    """Those that settings name: the roots that brokers, providers and timestamp authorities are believed by."""
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 - takes its time to load

    places = [(settings.kafka, "tls_roots"), (settings.oidc, "tls_roots"), (settings.timestamps, "roots")]
    files = {file for place, name in places if place is not None and (file := getattr(place, name)) is not None}
    ending = []
    for file in sorted(files):
        try:
            ends = min(one.not_valid_after_utc for one in load_pem_x509_certificates(file.read_bytes()))
        except (OSError, ValueError):
            ending.append(f"{file} (which cannot be read)")
        else:
            ending += [f"{file} on {ends:%Y-%m-%d}"] if ends < datetime.now(UTC) + RUNS_OUT_WITHIN else []
    found = f"{named(ending)}" if ending else f"none of {len(files)} within {RUNS_OUT_WITHIN.days} days"
    return judged("certificates.run_out", found, "Put the new ones beside the old in that file, before it is too late.", warn=bool(ending))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secrets(environment: Mapping[str, str]) -> Finding:
    held = sorted(
        name
        for name, value in environment.items()
        if value and name.startswith(("AUREUS_", "DATABASE_URL", "AWS_")) and not name.endswith("_FILE") and _is_secret(name, value)
    )
    found = f"{named(held)} in the environment, where every child and crash report sees it" if held else "no secret in the environment"
    return judged("secrets.environment", found, "Write each into a file of mode 0600, and name it: NAME_FILE=/path", warn=bool(held))


def _is_secret(name: str, value: str) -> bool:
    if any(word in name for word in _SECRET_WORDS) and name not in _NO_SECRETS:
        return True
    return "://" in value and urlsplit(value).password is not None
