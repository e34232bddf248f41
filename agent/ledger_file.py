"""The ledger's file: how it is made, opened, read by others, and set aside when it is damaged.

Rollback journal rather than WAL, so that people who may only read the directory can read the ledger; EXTRA syncs
the directory too, so that a commit outlives a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import quote

from agent import ledger, outbox
from agent.ledger import CorruptLedgerError, Ledger
from agent.state import State, StateError

T = TypeVar("T")

_APPLICATION = 0x646C766D  # "dlvm" marks the file as ours: https://www.sqlite.org/pragma.html#pragma_application_id
_VERSION = 1
_BUSY_SECONDS = 20.0


@contextlib.contextmanager
def reading(state: State) -> Iterator[Ledger | None]:
    """The ledger for a look, or None where there is none yet.

    Raises:
        StateError: it may not be read, or it is damaged.
    """
    state.keep_out(state.ledger)
    if not _is_there(state):
        yield None
        return
    try:
        with contextlib.closing(_connected(state, mode="ro")) as connection:
            _verify(connection)
            yield Ledger(connection)
    except sqlite3.Error as error:
        raise _refused(state, error) from error
    except CorruptLedgerError as error:
        raise StateError(f"{state.ledger} is damaged ({error}); the next scan sets it aside and begins anew") from error


def writing(state: State, work: Callable[[Ledger], T]) -> tuple[T, str]:
    """Do some work on the ledger, making it if need be; a damaged one is set aside and the work done on a new one.

    Returns what the work returned, and a notice for people, empty if all was well.

    Raises:
        StateError: the ledger cannot be written; nothing was changed.
    """
    state.keep_out(state.ledger)
    state.prepare(os.path.dirname(state.ledger))
    try:
        return _worked(state, work), ""
    except CorruptLedgerError as error:
        aside = _set_aside(state)
        notice = f"The ledger was damaged ({error}). It was moved to {aside}; history begins anew."
        return _worked(state, work), notice


def _worked(state: State, work: Callable[[Ledger], T]) -> T:
    try:
        with contextlib.closing(_connected(state, mode="rwc")) as connection:
            _make(connection)
            state.share(state.ledger)
            return work(Ledger(connection))
    except sqlite3.Error as error:
        # Damage is a plain DatabaseError; a full disk, a lock or a missing right is one of its subclasses.
        if type(error) is sqlite3.DatabaseError:
            raise CorruptLedgerError(str(error)) from error
        raise _refused(state, error) from error


def _connected(state: State, *, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(state.ledger)}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _verify(connection: sqlite3.Connection) -> None:
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    if application != _APPLICATION:
        raise CorruptLedgerError("it is not a ledger of dlvmguard")
    if version > _VERSION:
        raise StateError(f"the ledger was written by a newer dlvmguard (format {version}, this one knows {_VERSION})")


def _make(connection: sqlite3.Connection) -> None:
    """The tables, in one transaction, if the file is new."""
    connection.execute("PRAGMA synchronous = EXTRA")
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
    if tables:
        _verify(connection)
        return
    with Ledger(connection).transaction():
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
        if tables:  # somebody else made them while we waited for the lock
            return
        for statement in _statements(ledger.SCHEMA + outbox.SCHEMA):
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (secrets.token_hex(8),))
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; ``executescript`` would commit the transaction that we are in."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _is_there(state: State) -> bool:
    try:
        if os.stat(state.ledger).st_size == 0:  # a first run was stopped before it wrote the tables
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise state.refused(state.ledger, error) from error
    if not os.access(state.ledger, os.R_OK):
        raise state.refused(state.ledger, PermissionError(13, "Permission denied"))
    return True


def _set_aside(state: State) -> str:
    """Move a damaged ledger and its journal out of the way; nothing is deleted."""
    stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    aside = f"{state.ledger}.damaged-{stamp}-{secrets.token_hex(2)}"
    try:
        os.rename(state.ledger, aside)
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{state.ledger}-journal", f"{aside}-journal")
    except OSError as error:
        raise state.refused(state.ledger, error) from error
    return aside


def _refused(state: State, error: sqlite3.Error) -> StateError:
    return StateError(f"{state.ledger}: {error}; nothing was recorded, the next run records it")
