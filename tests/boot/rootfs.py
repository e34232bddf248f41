"""Debian in a folder, as debootstrap makes it: once for each release and list of packages, then kept.

Kept under ``DLVMGUARD_BOOT_CACHE``, else ``~/.cache/dlvmguard-boot``. A build that was killed leaves a folder that no
other looks at and the next build removes. Packages come from the mirror that this machine's apt uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

RELEASES = ("bookworm", "trixie")
"""Debian 12 and 13."""
_PACKAGES = [
    "ca-certificates",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "procps",
    "python3",
    "python3-venv",
    "systemd",
    "systemd-sysv",
    "util-linux",
]
_TOOLS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
"""Programs and the packages that they come from."""
_BUILD_SECONDS = 600


class CannotBootError(Exception):
    """No machine can be booted here; the text says why."""


def built(release: str) -> Path:
    """The root directory of this release; made now if it was not yet. Nobody may write to it."""
    cache = Path(os.environ.get("DLVMGUARD_BOOT_CACHE") or "~/.cache/dlvmguard-boot").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    packages = hashlib.sha256(",".join(_PACKAGES).encode()).hexdigest()[:12]
    done = cache / f"{release}-{packages}"
    with (cache / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            for left in cache.glob(f"{release}-*"):
                shutil.rmtree(left)
            unfinished = cache / f"{release}-unfinished"
            _build(release, unfinished)
            unfinished.rename(done)
    return done


def check() -> None:
    """Refuse where the kernel or the rights for a machine are lacking; install the programs that are."""
    if os.geteuid() != 0:
        raise CannotBootError("only root can boot a machine in a container")
    missing = [package for program, package in _TOOLS.items() if not shutil.which(program)]
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            _try(["apt-get", "--quiet", *words], f"{' and '.join(missing)} cannot be installed", env=environment)
    with tempfile.TemporaryDirectory() as place:
        for name in ("lower", "upper", "work", "root"):
            (Path(place) / name).mkdir()
        overlay = "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root"
        words = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "sh", "-c", overlay]
        _try(words, "a container cannot be made here", cwd=place)


def _build(release: str, place: Path) -> None:
    included = ",".join(_PACKAGES)
    words = ["debootstrap", "--variant=minbase", f"--include={included}", release, str(place), _mirror()]
    # What debootstrap mounts goes when it does.
    namespaces = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    _try([*namespaces, *words], f"Debian {release} cannot be built", seconds=_BUILD_SECONDS)
    (place / "etc/hostname").unlink(missing_ok=True)  # both are copies of this machine's
    (place / "etc/resolv.conf").unlink(missing_ok=True)
    (place / "etc/machine-id").write_text("")


def _mirror() -> str:
    """Where this machine's apt gets Debian from."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    found = _try(words, "apt names no mirror").split()
    if not found:
        raise CannotBootError("apt has no lists of a Debian mirror here; after `apt-get update` it may")
    return found[0]


def _try(
    words: list[str], what: str, *, seconds: float = 300, cwd: str | None = None, env: dict[str, str] | None = None
) -> str:
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBootError(f"{what}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise CannotBootError(f"{what}: {' / '.join(lines[-3:])}")
    return done.stdout
