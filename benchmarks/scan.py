"""What a scan costs: `make bench`, or `python -m benchmarks.scan` where dlvmguard is installed.

Measured are whole processes with all their children, as the kernel accounts them; beside them, in the same run and
over the same machine, what people would otherwise run, so that the ratio means something on any hardware.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.machine import ENVIRONMENTS

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, "results", "latest.json")
COMMAND = os.path.join(sysconfig.get_path("scripts"), "dlvmguard")
LIBRARIES = sysconfig.get_path("purelib")

CONFIG = """
[instance]
detect = "never"
[models]
hash_bytes_per_scan = 0
[sinks.cloud_logging]
enabled = "never"
"""
"""The budget leaves the hashing of models out; and a benchmark asks no server."""

NOTHING = "nothing (python -I -S -c pass)"
MATCH = "match of 2,000 packages, in a process of its own"
BUDGETS = {
    "scan, generated machine, warm": (2.0, 3.0, 64.0),
    "packages, generated machine, warm": (1.5, None, 32.0),
    MATCH: (0.3, None, None),
}
"""CPU seconds, wall seconds, MiB: a full scan of 750 debs, 850 Python distributions and 200 processes; the inventory of
it with the match, whose memory counts beyond the interpreter's; and the match alone."""
BEYOND_INTERPRETER = {"packages, generated machine, warm"}

_LIST_DISTRIBUTIONS = """
import importlib.metadata, sys
for found in importlib.metadata.distributions(path=sys.argv[1:]): print(found.metadata["Name"], found.version)
"""


@dataclass(frozen=True)
class Cost:
    """What a command took: the median of several runs. ``ratio`` is its CPU against that of its peers."""

    what: str
    runs: int
    cpu: float
    wall: float
    peak: float
    status: int
    ratio: float | None = None


def main() -> None:
    """Measure, print the table, keep it as JSON."""
    parser = argparse.ArgumentParser(description="Measure what dlvmguard costs on this machine.")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each command; the median counts")
    repeat = parser.parse_args().repeat
    if not os.path.exists(COMMAND):
        sys.exit(f"{COMMAND} is not there; run: make bench")
    with tempfile.TemporaryDirectory(prefix="dlvmguard-bench-") as scratch:
        costs = list(_measured(scratch, repeat))
    machine = _machine()
    _print(costs, machine)
    os.makedirs(os.path.dirname(RESULTS), exist_ok=True)
    with open(RESULTS, "w", encoding="utf-8") as file:
        json.dump({"machine": machine, "costs": [asdict(cost) for cost in costs]}, file, indent=2)
        file.write("\n")


def _measured(scratch: str, repeat: int) -> Iterator[Cost]:
    tree, config = f"{scratch}/machine", f"{scratch}/config.toml"
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG)
    # In a process of its own: a child's peak begins at the size of the process that started it.
    subprocess.run([sys.executable, "-m", "benchmarks.machine", tree], check=True, cwd=os.path.dirname(HERE))
    yield _cost(NOTHING, [sys.executable, "-I", "-S", "-c", "pass"], repeat)
    yield _cost("dlvmguard --help", [COMMAND, "--help"], repeat)
    for name, root in (("this machine", "/"), ("generated machine", tree)):
        guard = [COMMAND, "--config", config, "--root", root, "--state-dir", f"{scratch}/state of {name}"]
        _forget(tree, LIBRARIES)
        yield _cost(f"scan, {name}, cold", [*guard, "scan"], 1)
        peers = [_cost(what, command, repeat) for what, command in _peers(name, root)]
        warm = _cost(f"scan, {name}, warm", [*guard, "scan"], repeat)
        yield from _with_ratio(warm, peers)
        yield _cost(f"status, {name}", [*guard, "status"], repeat)
        inventory = _cost(f"packages, {name}, warm", [*guard, "packages", "--vulnerable"], repeat)
        yield from _with_ratio(inventory, [_cost(what, command, 1) for what, command in _scanners(name, root)])
    yield _matched(repeat)


def _scanners(name: str, root: str) -> Iterator[tuple[str, list[str]]]:
    """What people scan for known flaws with, over the same; those that are installed here.

    pip-audit asks a server for each distribution: where none answers, its figures are those of asking in vain.
    """
    scripts = os.path.dirname(COMMAND)
    audit, syft = os.path.join(scripts, "pip-audit"), os.path.join(scripts, "syft")
    if os.path.exists(audit) and root != "/":
        places = [word for each in ENVIRONMENTS for word in ("--path", root + each)]
        yield f"  pip-audit, {name}", [audit, "--progress-spinner=off", "--timeout=5", *places]
    if os.path.exists(syft) and root != "/":
        yield f"  syft (inventory alone), {name}", [syft, "--quiet", "--output=json", f"dir:{root}"]


def _matched(repeat: int) -> Cost:
    """The match counts its own CPU, from before the database is opened."""
    words = [sys.executable, "-m", "benchmarks.matching", "2000"]
    said = [
        subprocess.run(words, check=True, capture_output=True, text=True, cwd=os.path.dirname(HERE)).stdout
        for _ in range(repeat)
    ]
    cpu = statistics.median(float(each.split()[0]) for each in said)
    return Cost(what=MATCH, runs=repeat, cpu=cpu, wall=cpu, peak=0.0, status=0)


def _peers(name: str, root: str) -> Iterator[tuple[str, list[str]]]:
    """What lists the same packages and distributions today, without judging them."""
    if shutil.which("dpkg-query"):
        admin = os.path.join(root, "var/lib/dpkg")
        yield f"  dpkg-query -W, {name}", ["dpkg-query", f"--admindir={admin}", "-W"]
    if root == "/":
        yield f"  pip list, {name}", [sys.executable, "-m", "pip", "--disable-pip-version-check", "list"]
    else:
        places = [root + each for each in ENVIRONMENTS]
        yield f"  importlib.metadata, {name}", [sys.executable, "-c", _LIST_DISTRIBUTIONS, *places]


def _with_ratio(cost: Cost, peers: Sequence[Cost]) -> Iterator[Cost]:
    together = sum(peer.cpu for peer in peers)
    yield replace(cost, ratio=cost.cpu / together) if together else cost
    yield from peers


def _cost(what: str, command: Sequence[str], repeat: int) -> Cost:
    runs = [_run(command) for _ in range(repeat)]
    cpu, wall, peak, status = zip(*runs, strict=True)
    return Cost(
        what=what,
        runs=repeat,
        cpu=statistics.median(cpu),
        wall=statistics.median(wall),
        peak=max(peak),
        status=max(status),
    )


def _run(command: Sequence[str]) -> tuple[float, float, float, int]:
    """CPU seconds, wall seconds and peak MiB of a process and all its children, and its exit status."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], list(command), os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - start
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def _forget(*directories: str) -> None:
    """Ask the kernel to drop what it has cached of the files there; the rest of the machine stays as warm as it is."""
    os.sync()
    for path in (os.path.join(at, name) for top in directories for at, _, names in os.walk(top) for name in names):
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _machine() -> dict[str, str | int]:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) // 1024
    return {
        "taken": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_mib": memory,
        "load": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "dlvmguard": subprocess.run([COMMAND, "--version"], check=True, capture_output=True, text=True).stdout.split()[
            -1
        ],
    }


def _print(costs: Sequence[Cost], machine: dict[str, str | int]) -> None:
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"\n{'':50}{'CPU s':>9}{'wall s':>9}{'peak MiB':>10}{'to peers':>10}  exit")
    interpreter = next(cost.peak for cost in costs if cost.what == NOTHING)
    for cost in costs:
        ratio = f"{cost.ratio:.2f} x" if cost.ratio is not None else ""
        numbers = f"{cost.cpu:9.3f}{cost.wall:9.3f}{cost.peak:10.1f}{ratio:>10}"
        print(f"{cost.what:50}{numbers}  {cost.status}{_against_budget(cost, interpreter)}")
    print(f"\nMedians; peaks are maxima, and none is told below that of nothing. Kept in {os.path.relpath(RESULTS)}")


def _against_budget(cost: Cost, interpreter: float) -> str:
    budget = BUDGETS.get(cost.what)
    if not budget:
        return ""
    peak = cost.peak - (interpreter if cost.what in BEYOND_INTERPRETER else 0)
    spent = zip((cost.cpu, cost.wall, peak), budget, ("s CPU", "s", "MiB"), strict=True)
    limits = [(value, allowed, unit) for value, allowed, unit in spent if allowed is not None]
    within = all(value <= allowed for value, allowed, _ in limits)
    said = ", ".join(f"{allowed:g} {unit}" for _, allowed, unit in limits)
    beyond = f" ({peak:.1f} MiB beyond the interpreter)" if cost.what in BEYOND_INTERPRETER else ""
    return f"  {'within' if within else 'OVER'} the budget of {said}{beyond}"


if __name__ == "__main__":
    main()
