"""RPM's database, written for one test: headers as rpm stores them, in the table that it stores them in."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agent.facts.rpm_header import ARCH, EPOCH, MODULARITYLABEL, NAME, RELEASE, SOURCERPM, VENDOR, VERSION

DATABASE = "/var/lib/rpm/rpmdb.sqlite"
TABLE = "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,blob BLOB NOT NULL)"


def header(tags: dict[int, str | int]) -> bytes:
    """A header with these tags, numbers before strings, as their alignment wants it."""
    index, store = b"", b""
    for tag, value in sorted(tags.items(), key=lambda item: isinstance(item[1], str)):
        index += struct.pack(">4I", tag, 4 if isinstance(value, int) else 6, len(store), 1)
        store += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">2I", len(tags), len(store)) + index + store


def a_header(name: str, version: str = "1.0", release: str = "1.el9", **more: str | int) -> bytes:
    """The header of a package; ``more`` are epoch, architecture, source, vendor and module."""
    tags: dict[int, str | int] = {NAME: name, VERSION: version, RELEASE: release}
    tags[ARCH] = more.pop("architecture", "x86_64")
    tags[SOURCERPM] = more.pop("source", f"{name}-{version}-{release}.src.rpm")
    names = {"epoch": EPOCH, "vendor": VENDOR, "module": MODULARITYLABEL}
    return header({**tags, **{names[key]: value for key, value in more.items()}})


def database(path: Path, headers: Iterable[bytes]) -> Path:
    """A database with these headers; in the mode that rpm sets, with all of it written out of the log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(TABLE)
    connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(each,) for each in headers])
    connection.commit()
    connection.close()
    return path


def unfinished(path: Path, statements: Iterable[tuple[str, tuple[object, ...]]]) -> None:
    """Leave the database as a program that is at work or was killed leaves it: these changes are in the log alone."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    for statement, values in statements:
        connection.execute(statement, values)
    connection.commit()
    kept = {name: name.read_bytes() for name in (path, path.with_name(f"{path.name}-wal"))}
    connection.close()
    for name, content in kept.items():
        name.write_bytes(content)


SPEC = """
Name: nodejs
Epoch: 1
Version: 18.19.1~rc2
Release: 1.module+el9
Summary: x
License: MIT
Vendor: Rocky Enterprise Software Foundation
ModularityLabel: nodejs:18:9020230301:rhel9
BuildArch: noarch
%description
x
%package -n nodejs-docs
Summary: y
%description -n nodejs-docs
y
%files
%files -n nodejs-docs
"""


def install(place: Path) -> Path:
    """Build two packages with the rpm of this machine and install them below a root of their own, which returns."""
    root = place / "root"
    root.mkdir()
    spec = place / "nodejs.spec"
    spec.write_text(SPEC)
    settings = {"_topdir": place / "build", "_dbpath": place / "db", "_buildhost": "localhost"}
    defined = [word for name, value in settings.items() for word in ("--define", f"{name} {value}")]
    subprocess.run(["rpmbuild", "-bb", *defined, spec], capture_output=True, check=True)
    built = sorted((place / "build" / "RPMS").rglob("*.rpm"))
    rpm(root, "--install", "--justdb", "--nodeps", *map(str, built))
    return root


def rpm(root: Path, *arguments: str) -> bytes:
    """What rpm says about the database below a root."""
    command = ["rpm", "--root", str(root), "--define", "_dbpath /var/lib/rpm", *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


IS_HERE = shutil.which("rpm") is not None and shutil.which("rpmbuild") is not None
