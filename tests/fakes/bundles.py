"""Bundles that a release could make but this tree does not: of another version."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

from agent import __version__

NEXT = "9.8.7"


def next_version(bundle: Path, place: Path) -> Path:
    """A bundle like this unpacked one, but of a later version and with one unit more."""
    shutil.copytree(bundle, place)
    (old,) = (place / "wheelhouse").glob("dlvmguard-*.whl")
    new = old.with_name(old.name.replace(__version__, NEXT))
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as wheel:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(("agent/__init__.py", "METADATA", "RECORD")):
                content = content.replace(__version__.encode(), NEXT.encode())
            wheel.writestr(name.replace(__version__, NEXT), content)
        (unit,) = (name for name in wheel.namelist() if name.endswith("dlvmguard-report.timer"))
        wheel.writestr(unit.replace("report.timer", "another.timer"), wheel.read(unit))
    old.unlink()
    lock = place / "requirements.lock"
    own = f"dlvmguard=={NEXT} --hash=sha256:{hashlib.sha256(new.read_bytes()).hexdigest()}\n"
    lock.write_text(own + lock.read_text().partition("\n")[2])
    seal(place)
    return place


def seal(place: Path) -> None:
    """Write the checksums of all that is in a bundle."""
    paths = sorted(path for path in place.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(place)}\n" for path in paths)
    (place / "SHA256SUMS").write_text("".join(sums))
