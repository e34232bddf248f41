"""Make dist/dlvmguard-VERSION-bundle.tar.gz: all that installs dlvmguard without a network, with its checksums.

The same sources and lock give the same bundle, byte for byte.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from agent import __version__
from release.wheels import LOCK, PIP_LOCK, PYTHONS, ROOT, here, pip, target

_SOURCES = ("agent", "systemd", "pyproject.toml", "install.sh", "requirements.lock", "README.md", "LICENSE")
_TIME = 315532800
"""1980-01-01, the earliest that a wheel, which is a zip file, can hold."""


def main() -> None:
    """Make the bundle of this tree in dist/."""
    archive = make(ROOT / "dist")
    print(f"{archive.relative_to(ROOT)}  {archive.stat().st_size / 1e6:.1f} MB")  # noqa: T201 -- what make says


def make(place: Path) -> Path:
    """Make the bundle of this tree, and return its path."""
    name = f"dlvmguard-{__version__}-bundle"
    archive = place / f"{name}.tar.gz"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch, name)
        fill(bundle, Path(scratch, "source"))
        packed = archive.with_suffix(".new")
        pack(bundle, packed)
        packed.replace(archive)
    return archive


def fill(bundle: Path, source: Path) -> None:
    """Put everything into the bundle's directory: wheels, lock, installer, units, and their checksums last."""
    wheels = bundle / "wheelhouse"
    wheels.mkdir(parents=True)
    own = own_wheel(source, wheels)
    for python in PYTHONS:
        for lock in (LOCK, PIP_LOCK):
            pip(
                "download", "--quiet", "--require-hashes", f"--requirement={lock}", f"--dest={wheels}",
                *target(python, here()),
            )  # fmt: skip
    first = f"dlvmguard=={__version__} --hash=sha256:{digest(own)}\n"
    (bundle / "requirements.lock").write_text(first + LOCK.read_text(encoding="utf-8"), encoding="utf-8")
    shutil.copy(ROOT / "install.sh", bundle)
    shutil.copytree(ROOT / "systemd", bundle / "systemd")
    sums = "".join(f"{digest(path)}  {path.relative_to(bundle)}\n" for path in files(bundle))
    (bundle / "SHA256SUMS").write_text(sums, encoding="utf-8")


def own_wheel(source: Path, wheels: Path) -> Path:
    """Build the wheel of this tree from a copy: a build leaves traces, and takes over modes and times."""
    source.mkdir()
    for name in _SOURCES:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif place.exists():
            shutil.copy(place, source / name)
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.name == "install.sh" else 0o644)
    os.environ["SOURCE_DATE_EPOCH"] = str(_TIME)  # https://reproducible-builds.org/specs/source-date-epoch/
    pip("wheel", "--quiet", "--no-deps", "--no-cache-dir", f"--wheel-dir={wheels}", str(source))
    (wheel,) = wheels.glob("dlvmguard-*.whl")
    return wheel


def pack(bundle: Path, archive: Path) -> None:
    """Pack the directory: sorted, owned by root, of one time."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,  # wheels are packed already
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in files(bundle):
            entry = tar.gettarinfo(path, f"{bundle.name}/{path.relative_to(bundle)}")
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = _TIME
            entry.mode = 0o755 if path.name == "install.sh" else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def files(bundle: Path) -> list[Path]:
    """Everything in the bundle, in one order."""
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
