"""Opening a result store: a SQLite file, or PostgreSQL by URL. An empty one is given its tables.

SQLite is in WAL mode with synchronous=FULL: readers never wait, and a row that was acknowledged survives a killed process
and a power cut. PostgreSQL does so by default.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from flawforge.store.tables import METADATA, VERDICTS
from flawforge.types import ConfigError, DataError
from flawforge_runtime.names import shown

BUSY = 10.0  # seconds that a writer waits for another
LONGEST = 30.0  # seconds that PostgreSQL may take for a statement, but for a migration
# Of a connection to PostgreSQL: a server that no longer answers is given up, instead of holding all requests.
REACH = {
    "connect_timeout": int(BUSY),
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": int(1000 * LONGEST),
}
LOCK = 4711_2208  # PostgreSQL's advisory lock that one process holds while it migrates
FORMS = "a file such as results.db, sqlite:///FILE, or postgresql://USER@HOST/NAME"


class Unreachable(DataError):
    """The store cannot be read or written now. What was being recorded is not recorded."""


@dataclass(frozen=True)
class Store:
    """An open result store. Threads may share it.

    engine  SQLAlchemy's; `reading` and `writing` give its transactions
    files   folder of kept pictures and overlays; None = none are kept
    name    the URL without its password, for people
    path    the SQLite file, and `inode` which one it was when it was opened; None = another database
    """

    engine: sa.Engine
    files: Path | None
    name: str
    path: Path | None = None
    inode: tuple[int, int] | None = None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the store. Raises Unreachable."""
        self._check_place()
        with _said(self.name), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is on the disk when this returns, or leaves no trace. Raises Unreachable."""
        self._check_place()
        with _said(self.name), self.engine.execution_options(writes=True).begin() as connection:
            yield connection
            self._check_place()

    def _check_place(self) -> None:
        """SQLite writes on to a file that was removed or replaced, and all of it is lost with the last connection."""
        if self.path is not None and self.inode is not None and _inode(self.path) != self.inode:
            raise Unreachable(
                f"The result store {self.path} was removed or replaced while it was open; put the file back, or start anew "
                "with what lies there now; nothing was recorded."
            )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


@contextmanager
def _said(name: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise Unreachable(f"The result store {name} cannot be used now ({reason(error)}); nothing was recorded.") from error


def reason(error: SQLAlchemyError) -> str:
    """The driver's own words in one line, without statement and parameters."""
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return " ".join(text.split()).rstrip(".")[:300] or type(error).__name__


def parse_url(url: str | Path) -> URL:
    """SQLAlchemy's URL of a path or a URL. Raises ConfigError for another database."""
    text = str(url)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text)))
    try:
        parsed = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(f"--db was given as {text.split('@')[-1]}, which is no database URL; give {FORMS}.") from None
    kind = parsed.get_backend_name()
    if kind == "postgres":
        kind = "postgresql"
    if kind not in ("sqlite", "postgresql"):
        raise ConfigError(f"--db names a database of kind {kind}; give {FORMS}.")
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError(f"--db names a SQLite store without a file, which would be lost; give {FORMS}.")
        return URL.create("sqlite", database=parsed.database)
    return parsed.set(drivername="postgresql+psycopg")


def open_store(url: str | Path, files: str | Path | None = None, *, create: bool = True) -> Store:
    """Open a result store, and give an empty database its tables.

    url     a path to a SQLite file, sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME
    files   folder of kept pictures and overlays; None = FILE's name with -files beside a SQLite file, none for PostgreSQL
    create  False: raise DataError where there is no store yet
    Raises ConfigError for another kind of database or a driver that is missing; DataError for a schema that is older or
    newer than this flawforge, and for a SQLite file of another program, which stays as it is; Unreachable where the
    database cannot be reached.
    """
    parsed = parse_url(url)
    path = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
    if path is not None:
        if not create and not path.is_file():
            raise DataError(f"There is no result store {path}; give the --db that `inspect` or `serve` wrote to.")
        path.parent.mkdir(parents=True, exist_ok=True)
        files = path.with_name(f"{path.stem}-files") if files is None else files
    store = Store(_engine(parsed), Path(files) if files is not None else None, parsed.render_as_string(hide_password=True))
    try:
        _check_schema(store, create)
    except BaseException:
        store.close()
        raise
    return store if path is None else replace(store, path=path.absolute(), inode=_inode(path))


def _engine(url: URL) -> sa.Engine:
    try:
        if url.get_backend_name() == "postgresql":
            return _patient(sa.create_engine(url, pool_pre_ping=True, connect_args=REACH))
        engine = sa.create_engine(url, connect_args={"timeout": BUSY})
    except (ImportError, NoSuchModuleError) as error:
        raise ConfigError(
            f"The database's driver is not installed ({error}); pip install 'flawforge[serve]', or give a SQLite file."
        ) from None

    @sa.event.listens_for(engine, "connect")
    def settings(connection: Any, _: Any) -> None:
        others = _tables_of_others(connection)
        if others:  # before any setting: WAL alone would change their file
            connection.close()
            raise DataError(
                f"{url.database} holds tables of another program ({others}); give a --db of its own to flawforge."
            )
        connection.isolation_level = None  # SQLAlchemy begins transactions, not the driver
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: one that began as a reader would fail instead of waiting.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _patient(engine: sa.Engine) -> sa.Engine:
    """PostgreSQL's, whose statements end: a lock that somebody holds must hold up neither requests nor a stop for ever."""

    @sa.event.listens_for(engine, "connect")
    def limits(connection: Any, _: Any) -> None:
        connection.execute(f"SET lock_timeout = '{BUSY:g}s'")
        connection.execute(f"SET statement_timeout = '{LONGEST:g}s'")
        connection.commit()

    return engine


def _tables_of_others(connection: Any) -> str:
    """The first names in a SQLite file that has tables and is no result store; "" for a store and for an empty file."""
    listed = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%' ORDER BY name"
    names = [str(name) for (name,) in connection.execute(listed)]
    if not names or {VERDICTS.name, "alembic_version"} <= set(names):
        return ""
    return ", ".join(shown(name)[:40] for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _migrations() -> ScriptDirectory:
    folder = str(importlib.resources.files("flawforge") / "migrations")
    return ScriptDirectory(folder, version_locations=[folder])


def _check_schema(store: Store, create: bool) -> None:
    scripts = _migrations()
    head = scripts.get_current_head()
    with store.reading() as connection:
        # The tables first: PostgreSQL shows each statement what others have committed, and tables without a revision would
        # be another program's where one that opens the same store has just made both.
        known = set(sa.inspect(connection).get_table_names())
        found = MigrationContext.configure(connection).get_current_revision()
    if found == head:
        return
    if found is None and not known & set(METADATA.tables):
        if not create:
            raise DataError(f"{store.name} holds no result store; give the --db that `inspect` or `serve` wrote to.")
        upgrade(store)
        return
    if found is None or found not in {each.revision for each in scripts.walk_revisions()}:
        what = "tables of another program" if found is None else f"schema {found} of a newer flawforge"
        raise DataError(f"{store.name} holds {what}; update flawforge, or give another --db.")
    raise DataError(
        f"{store.name} has schema {found} and this flawforge needs {head}; back it up, and run: flawforge results upgrade DB"
    )


def upgrade(store: Store) -> tuple[str | None, str]:
    """Bring the tables to the newest schema, in one transaction: (revision before, revision now). Raises Unreachable."""
    scripts = _migrations()
    with store.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        before = MigrationContext.configure(connection).get_current_revision()
        environment = EnvironmentContext(Config(), scripts, fn=lambda revision, _: scripts._upgrade_revs("head", revision))
        with environment:
            environment.configure(connection=connection, target_metadata=METADATA)
            environment.run_migrations()
    return before, str(scripts.get_current_head())


def open_to_upgrade(url: str | Path) -> Store:
    """Open a store without a look at its schema, for `upgrade`. Raises DataError where a SQLite file is missing."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise DataError(f"There is no result store {parsed.database}; give the --db that `inspect` or `serve` wrote to.")
    return Store(_engine(parsed), None, parsed.render_as_string(hide_password=True))
