"""A real PostgreSQL for the tests: its own folder, a private socket, no network, run by a user who is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
USER = "flawforge"
# A killed process must lose no row, which needs no fsync; a power cut is not tested here.
SETTINGS = {"listen_addresses": "", "fsync": "off", "max_connections": "40", "shared_buffers": "16MB"}


def program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; Debian keeps them out of PATH."""
    return shutil.which(name) or next((str(place / name) for place in PLACES if (place / name).exists()), None)


def why_not() -> str:
    """Why there can be no PostgreSQL here; "" where there can."""
    if program("initdb") is None or program("postgres") is None:
        return "PostgreSQL is not installed; apt-get install postgresql"
    if os.geteuid() == 0 and _other() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    return ""


def _other() -> str | None:
    """A user who may run it where we are root."""
    known = {each.pw_name for each in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


class Server:
    """One PostgreSQL. `url` gives a new, empty database; `stop` and `start` take it away and bring it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.who = _other() if os.geteuid() == 0 else None
        if self.who is not None:
            shutil.chown(folder, self.who)
        self._run(program("initdb"), "-D", folder / "data", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        self.process: subprocess.Popen[bytes] | None = None

    def _how(self) -> dict[str, object]:
        return {"user": self.who, "extra_groups": []} if self.who is not None else {}

    def _run(self, *arguments: object) -> None:
        done = subprocess.run([str(each) for each in arguments], capture_output=True, text=True, cwd="/", **self._how())  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        settings = [text for key, value in SETTINGS.items() for text in ("-c", f"{key}={value}")]
        command = [program("postgres"), "-D", self.folder / "data", "-k", self.folder, *settings]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                [str(each) for each in command], stdout=log, stderr=log, cwd="/", **self._how()
            )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if subprocess.run([str(program("psql")), *self._to("postgres"), "-c", ""], capture_output=True).returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT disconnects everybody and ends; SIGQUIT is a crash."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def _to(self, name: str) -> list[str]:
        return ["-h", str(self.folder), "-U", USER, "-d", name, "-q", "-v", "ON_ERROR_STOP=1"]

    def url(self) -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        subprocess.run([str(program("psql")), *self._to("postgres"), "-c", f"CREATE DATABASE {name}"], check=True)
        return f"postgresql://{USER}@/{name}?host={self.folder}"


@contextmanager
def postgresql() -> Iterator[Server]:
    """A running server in a folder of its own, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="flawforge-postgresql-"))
    try:
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
