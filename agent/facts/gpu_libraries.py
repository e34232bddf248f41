"""The driver's libraries where the loader finds them: which files, whose, and whether they are as installed."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from agent.facts.gpu_files import TrustedFile, trusted
from agent.facts.nvml import LIBRARY_DIRECTORIES
from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value

CONFIGURATION = "/etc/ld.so.conf"
PRELOAD = "/etc/ld.so.preload"
NAMES = ("libnvidia-ml.so.1", "libnvidia-ml.so", "libcuda.so.1", "libcuda.so")
"""By which programs ask for them."""
_DPKG = "/var/lib/dpkg/info"
_PACKAGES = re.compile(r"(.*nvidia.*|libcuda\d.*|cuda-compat.*)\.md5sums", re.DOTALL)
"""Packages of Debian, Ubuntu and NVIDIA that bring one of the libraries."""
_SUM = re.compile(rb"^([0-9a-f]{32})  (\S*lib(?:nvidia-ml|cuda)\.so[.\d]*)$", re.MULTILINE)
_VERSIONED = re.compile(r"lib(?:nvidia-ml|cuda)\.so\.(\d{3,5}(?:\.\d{1,5}){1,2})", re.ASCII)
_LARGEST = 512 * MEBIBYTE
"""libcuda, the larger one, has about 100 MB."""
_MANY = 200
"""Directories of the loader, and lines of its files; real machines have a dozen."""
_BITS = {b"\x7fELF\x01": 32, b"\x7fELF\x02": 64}


class GpuLibrary(Value, frozen=True, kw_only=True):
    """A file that programs get when they ask for a library of the driver by one of ``names``, which are paths.

    ``version`` is that in the file's name. ``bits`` is 0 for what is no library. ``package`` brought the file,
    ``packaged`` is the MD5 that it should have by the package, ``digest`` the one it has, ``first`` the one that it
    had when it was first seen. ``stamp`` tells when the file was written.
    """

    path: str
    names: tuple[str, ...]
    version: str
    bits: int
    size: int
    package: str = ""
    packaged: str = ""
    digest: str
    first: str
    stamp: tuple[int, ...]

    @property
    def is_for_nvml(self) -> bool:
        """Whether it is the one through which the driver is asked how the GPUs are."""
        return any("/libnvidia-ml.so" in name for name in self.names)


class GpuLibraries(Fact, frozen=True, kw_only=True):
    """The driver's libraries, those in the system's own directories first, and what is loaded into every program."""

    libraries: tuple[GpuLibrary, ...] = ()
    trusted: tuple[TrustedFile, ...] = ()
    preloaded: tuple[str, ...] = ()


def look(host: Host, earlier: GpuLibraries | None) -> GpuLibraries:
    """The libraries of a machine that has a GPU. A file is hashed when it was written since ``earlier``."""
    gaps: list[Unknown] = []
    names: dict[str, list[str]] = {}
    directories = tuple(_directories(host, gaps))
    for directory in directories:
        for name in NAMES:
            _follow(host, f"{directory}/{name}", names, gaps)
    packaged = _packaged(host, gaps) if names else {}
    known = {each.path: each for each in earlier.libraries} if earlier else {}
    libraries = []
    for path, found in names.items():
        with _gap_at(path, gaps):
            libraries.append(_library(host, path, found, packaged.get(path, ("", "")), known.get(shown(path))))
    preloaded = _preloaded(host, gaps)
    places = {*names, *(posixpath.dirname(name) for path, found in names.items() for name in (path, *found))}
    places |= {PRELOAD, CONFIGURATION, *(path for path in preloaded if path.startswith("/"))}
    return GpuLibraries(
        libraries=tuple(libraries),
        trusted=tuple(each for path in sorted(places) if (each := trusted(host, path, gaps))),
        preloaded=tuple(map(shown, preloaded)),
        gaps=tuple(gaps),
    )


@contextlib.contextmanager
def _gap_at(scope: str, gaps: list[Unknown]) -> Iterator[None]:
    """What is not there is nothing; what cannot be seen is a gap, and nothing is known of ``scope``.

    That is what a library is, never only how it is reached; and all of them where it is not known which there are.
    """
    try:
        yield
    except AbsentError:
        pass
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(scope)))


def parse_configuration(text: str) -> tuple[list[str], list[str]]:
    """The directories of a file of the loader's, and the patterns of files that it includes.

    Format: https://man7.org/linux/man-pages/man8/ldconfig.8.html
    """
    directories, included = [], []
    for line in text.splitlines():
        words = line.partition("#")[0].strip()
        if words.startswith("/"):
            directories.append(words.partition("=")[0].rstrip("/ \t") or "/")
        elif words.startswith(("include ", "include\t")):
            included += words.split()[1:]
    return directories[:_MANY], included[:_MANY]


def _directories(host: Host, gaps: list[Unknown]) -> Iterator[str]:
    """Where the loader looks, each real directory once, the system's own first; with those for newer processors.

    https://man7.org/linux/man-pages/man8/ld.so.8.html
    """
    told = set[str]()
    for directory in (*LIBRARY_DIRECTORIES[:4], "/lib64", "/lib", *_configured(host, gaps)):
        with _gap_at(directory, gaps):
            real = host.resolve(directory)
            if real in told:
                continue
            told.add(real)
            yield real
            capable = f"{real}/glibc-hwcaps"
            yield from (f"{capable}/{name}" for name in host.directories(capable, limit=_MANY))


def _configured(host: Host, gaps: list[Unknown]) -> list[str]:
    """The directories that are written down, in order. Files that included ones include are not followed."""
    found: list[str] = []
    included: list[str] = []
    with _gap_at("", gaps):
        found, included = parse_configuration(host.text(CONFIGURATION, limit=65536))
    for pattern in included:
        directory, name = posixpath.split(posixpath.join("/etc", pattern))
        with _gap_at("", gaps):
            for entry in host.entries(directory, limit=_MANY):
                if fnmatchcase(entry.name, name):
                    with _gap_at("", gaps):
                        found += parse_configuration(host.text(entry.path, limit=65536))[0]
    return found[:_MANY]


def _follow(host: Host, name: str, names: dict[str, list[str]], gaps: list[Unknown]) -> None:
    with _gap_at(posixpath.dirname(name), gaps):
        names.setdefault(host.resolve(name), []).append(name)


def _library(
    host: Host, path: str, names: Iterable[str], package: tuple[str, str], known: GpuLibrary | None
) -> GpuLibrary:
    seen = host.stat(path, follow=False)
    if not stat.S_ISREG(seen.st_mode):
        raise CannotLookError(f"{shown(path)} is not a regular file")
    stamp = host.signature(path)
    digest = known.digest if known and known.stamp == stamp else _digest(host, path, seen.st_size)
    version = _VERSIONED.fullmatch(posixpath.basename(path))
    return GpuLibrary(
        path=shown(path),
        names=tuple(map(shown, names)),
        version=version[1] if version else "",
        bits=_BITS.get(host.read_start(path, limit=5), 0),
        size=seen.st_size,
        package=package[0],
        packaged=package[1],
        digest=digest,
        first=known.first if known else digest,
        stamp=stamp,
    )


def _digest(host: Host, path: str, size: int) -> str:
    """The MD5 of a file: what dpkg has to compare with, and nobody makes another file of a given one."""
    if size > _LARGEST:
        raise CannotLookError(f"{shown(path)} is larger than {_LARGEST} bytes")
    digest = hashlib.md5(usedforsecurity=False)
    for piece in host.stream(path, limit=_LARGEST):
        digest.update(piece)
    return digest.hexdigest()


def parse_sums(content: bytes) -> dict[str, str]:
    """The libraries in a list of MD5 sums of a package, by the path that they have on a machine with one /usr."""
    found = {}
    for digest, name in _SUM.findall(content):
        path = posixpath.normpath(f"/{name.decode('utf-8', 'surrogateescape').lstrip('./')}")
        found[f"/usr{path}" if path.startswith("/lib") else path] = digest.decode("ascii")
    return found


def _packaged(host: Host, gaps: list[Unknown]) -> dict[str, tuple[str, str]]:
    """Package and MD5 of each library that a Debian package brought."""
    found: dict[str, tuple[str, str]] = {}
    with _gap_at("", gaps):
        for entry in host.entries(_DPKG):
            if package := _PACKAGES.fullmatch(entry.name):
                with _gap_at("", gaps):
                    sums = parse_sums(host.read(entry.path, limit=4 * MEBIBYTE))
                    found.update((path, (shown(package[1]), digest)) for path, digest in sums.items())
    return found


def _preloaded(host: Host, gaps: list[Unknown]) -> list[str]:
    """What is loaded into every program, parted by blanks or colons."""
    with _gap_at("", gaps):
        lines = (line.partition("#")[0] for line in host.text(PRELOAD, limit=65536).splitlines())
        return [path for line in lines for path in re.split(r"[\s:]+", line) if path][:_MANY]
    return []
