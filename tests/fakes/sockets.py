"""A machine's sockets and processes as /proc tells them, made for one test."""

from __future__ import annotations

import socket
from collections.abc import Iterable

_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def words(address: str) -> str:
    """An address as the kernel's tables write it."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return "".join(packed[start : start + 4][::-1].hex().upper() for start in range(0, len(packed), 4))


def row(address: str, port: int, *, inode: int, uid: int = 0, state: str = "0A") -> str:
    """A line of a table; its state is listening unless said otherwise."""
    local = words(address)
    remote = "0" * len(local)
    return (
        f"   0: {local}:{port:04X} {remote}:0000 {state} 00000000:00000000 00:00000000 00000000 "
        f"{uid:5d}        0 {inode} 1 0000000037da8486 100 0 0 10 0\n"
    )


def table(rows: Iterable[str] = ()) -> str:
    """A whole table."""
    return _HEADER + "".join(rows)


def network(**tables: Iterable[str]) -> dict[str, str | bytes]:
    """The tables of process 1; those not given are empty, and those of IPv6 absent."""
    return {f"/proc/1/net/{name}": table(rows) for name, rows in {"tcp": (), "udp": (), **tables}.items()}


def process(
    pid: int, *inodes: int, comm: str | bytes = "python3", executable: str = "", cgroup: str = "0::/\n"
) -> dict[str, str | bytes]:
    """A process that holds these sockets."""
    files: dict[str, str | bytes] = {
        f"/proc/{pid}/comm": (comm if isinstance(comm, bytes) else comm.encode()) + b"\n",
        f"/proc/{pid}/cgroup": cgroup,
        f"/proc/{pid}/fd/0": "-> /dev/null",
        **{f"/proc/{pid}/fd/{number}": f"-> socket:[{inode}]" for number, inode in enumerate(inodes, start=3)},
    }
    if executable:
        files[f"/proc/{pid}/exe"] = f"-> {executable}"
    return files
