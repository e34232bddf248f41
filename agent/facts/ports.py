"""Listening sockets of the machine: where each is bound, and who holds it.

What the network namespace of process 1 holds is looked at; a container with a network of its own is not. Where
processes with such a network exist that is a gap. Unix sockets, SCTP and raw sockets are not looked at.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import functools
import ipaddress
import re
from collections.abc import Iterable, Iterator

from agent.config import Config
from agent.facts.owners import Owner, Placement, Walk, find_holders, owner, parse_passwd
from agent.host import MEBIBYTE, Host
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe


class Exposure(enum.Enum):
    """From where the address of a listener can be reached, as far as the address itself says; ascending."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    PUBLIC = "public"
    WILDCARD = "wildcard"

    @property
    def rank(self) -> int:
        """0 for loopback, more the wider."""
        return list(Exposure).index(self)


class Listener(Value, frozen=True, kw_only=True):
    """One listening socket, or several alike of one owner.

    ``address`` is canonical text, an IPv4-mapped address its IPv4 form. ``dynamic`` says that the port lies in the
    range from which the kernel hands out ports, so that its number means nothing. ``process`` is empty where the
    owner is not known: the kernel itself, gone meanwhile, or not readable, which is then a gap.
    """

    protocol: str
    address: str
    port: int
    exposure: Exposure
    dynamic: bool
    uid: int
    user: str
    process: str = ""
    pid: int | None = None
    executable: str = ""
    unit: str = ""
    container_kind: str = ""
    container: str = ""

    @property
    def name(self) -> str:
        """Protocol and port, as ``tcp/8888``: the subject of what is said about it."""
        return f"{self.protocol}/{self.port}"

    @property
    def reachable(self) -> bool:
        """Whether anything beyond this machine could reach it."""
        return self.exposure is not Exposure.LOOPBACK


class Listeners(Fact, frozen=True, kw_only=True):
    """Every listening TCP socket, and every UDP socket that is bound and not connected."""

    listeners: tuple[Listener, ...]


class Socket(Value, frozen=True, kw_only=True):
    """One listening line of a kernel table."""

    protocol: str
    address: str
    exposure: Exposure
    port: int
    uid: int
    inode: int


# TCP_LISTEN, and TCP_CLOSE, which is what an unconnected UDP socket is in:
# https://github.com/torvalds/linux/blob/master/include/net/tcp_states.h
_LISTENING = {"tcp": b"0A", "udp": b"07"}
# https://docs.kernel.org/networking/proc_net_tcp.html; the UDP tables have the same first ten columns.
_LINE = re.compile(
    rb" *\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) (?:[0-9A-F]{8}|[0-9A-F]{32}):[0-9A-F]{4} ([0-9A-F]{2})"
    rb" \S+ \S+ +\S+ +(\d{1,10}) +\d+ +(\d{1,20})(?: |$)"
)
_TABLE_BYTES = 32 * MEBIBYTE
"""About 220,000 sockets of 150 bytes each; beyond that the machine has another problem, and we say so."""


def parse_table(content: bytes, protocol: str) -> tuple[list[Socket], list[int]]:
    """The listening sockets of a table as in /proc/net/tcp, and the numbers of the lines that are not understood."""
    sockets: list[Socket] = []
    malformed: list[int] = []
    for number, line in enumerate(content.split(b"\n")[1:], start=2):
        match = _LINE.match(line)
        if match is None:
            if line.strip():
                malformed.append(number)
        elif match[3] == _LISTENING[protocol]:
            address, exposure = parse_address(match[1])
            sockets.append(
                Socket(
                    protocol=protocol, address=address, exposure=exposure, port=int(match[2], 16),
                    uid=int(match[4]), inode=int(match[5]),
                )
            )  # fmt: skip
    return sockets, malformed


@functools.lru_cache(4096)
def parse_address(words: bytes) -> tuple[str, Exposure]:
    """An address as the tables write it, 32-bit words each in little-endian hexadecimal, and how exposed it is."""
    raw = bytes.fromhex(words.decode("ascii"))
    packed = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address), _exposure(address)


def _exposure(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Exposure:
    if address.is_unspecified:
        return Exposure.WILDCARD
    if address.is_loopback:
        return Exposure.LOOPBACK
    return Exposure.PUBLIC if address.is_global and not address.is_multicast else Exposure.PRIVATE


# As _LINE, but of listening sockets alone, with nothing to parse after it: protocol tables differ in the state.
_LISTENING_LINE = {
    protocol: re.compile(
        rb"^ *\d+: (\w+:)(\w{4}) \w+:\w{4} " + state + rb" \S+ \S+ +\S+ +\d+ +\d+ +(\d+) ", re.MULTILINE
    )
    for protocol, state in _LISTENING.items()
}


def _glance(host: Host, _config: Config) -> frozenset[tuple[bytes, ...]]:
    """Which sockets listen. The tables are read only when the kernel counts other sockets than before.

    To read them the kernel walks all its buckets, which takes milliseconds even when they are empty. One that is
    closed and opened again between two glances is left to the next look.
    """
    try:
        folder = _network(host)
        counts = tuple(_COUNTED.findall(host.read(f"{folder}/sockstat") + host.read(f"{folder}/sockstat6")))
    except CannotLookError:
        return _listening.__wrapped__(host, ())
    return _listening(host, counts)


# https://man7.org/linux/man-pages/man5/proc_pid_net.5.html; allocated memory and closing connections say nothing here.
_COUNTED = re.compile(rb"^(?:TCP|UDP)6?: inuse \d+|alloc \d+", re.MULTILINE)


@functools.lru_cache(1)
def _listening(host: Host, _counts: tuple[bytes, ...]) -> frozenset[tuple[bytes, ...]]:
    """The listening sockets, without dynamic UDP ports, which come and go with every question to a name server."""
    folder, dynamic = _network(host), _dynamic_ports(host)
    found: set[tuple[bytes, ...]] = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        protocol = table.removesuffix("6")
        with contextlib.suppress(CannotLookError):
            lines = _LISTENING_LINE[protocol].findall(host.read(f"{folder}/{table}", limit=_TABLE_BYTES))
            found.update(line for line in lines if protocol == "tcp" or int(line[1], 16) not in dynamic)
    return frozenset(found)


@probe(every=dt.timedelta(seconds=30), glance=_glance)
def listeners(host: Host, _config: Config) -> Listeners:
    """Listening sockets and who holds them."""
    sockets, gaps = _sockets(host)
    pids = host.processes()
    walk = find_holders(host, {socket.inode for socket in sockets}, pids)
    holders, owners = walk.holders, {pid: owner(host, pid) for pid in set(walk.holders.values())}
    users, dynamic = _users(host), _dynamic_ports(host)
    found: dict[tuple[object, ...], Listener] = {}
    for socket in sorted(
        sockets, key=lambda each: (each.protocol, each.port, each.address, holders.get(each.inode, 0))
    ):
        holder = owners.get(holders.get(socket.inode, 0), _NOBODY)
        # Workers that share a port, and one server with several sockets on it, are one listener: the first process's.
        alike = (socket.protocol, socket.port, socket.address, socket.uid, holder.process, holder.placement)
        if alike not in found:
            found[alike] = _listener(socket, holder, user=users.get(socket.uid, ""), dynamic=socket.port in dynamic)
    seen = tuple(found.values())
    return Listeners(listeners=seen, gaps=(*gaps, *_ownerless(seen, walk), *_elsewhere(host, pids)))


_NOBODY = Owner(pid=0, process="", executable="", placement=Placement())


def _listener(socket: Socket, holder: Owner, *, user: str, dynamic: bool) -> Listener:
    return Listener(
        protocol=socket.protocol, address=socket.address, port=socket.port, exposure=socket.exposure, dynamic=dynamic,
        uid=socket.uid, user=user, process=holder.process, pid=holder.pid or None, executable=holder.executable,
        unit=holder.placement.unit, container_kind=holder.placement.container_kind,
        container=holder.placement.container,
    )  # fmt: skip


def _sockets(host: Host) -> tuple[list[Socket], list[Unknown]]:
    """All listening sockets, and a gap for each table with lines that are not understood."""
    folder = _network(host)
    sockets: list[Socket] = []
    gaps: list[Unknown] = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        protocol = table.removesuffix("6")
        try:
            content = host.read(f"{folder}/{table}", limit=_TABLE_BYTES)
        except AbsentError:
            if table == protocol:
                raise
            continue  # a kernel without IPv6 has no such tables
        listening, malformed = parse_table(content, protocol)
        sockets += listening
        if malformed:
            some = ", ".join(map(str, malformed[:5])) + (", …" if len(malformed) > 5 else "")  # noqa: PLR2004 -- enough to look them up
            gaps.append(
                Unknown(
                    reason=f"{folder}/{table}: {len(malformed)} lines are not in the kernel's format (line {some})",
                    hint="A listener may be missing. Please report it with the lines.",
                    scope=protocol,
                )
            )
    return sockets, gaps


def _network(host: Host) -> str:
    """The network of process 1 is the machine's own; the sandbox that the agent runs in may have another."""
    try:
        return "/proc/1/net" if host.exists("/proc/1/net/tcp") else "/proc/self/net"
    except CannotLookError:
        return "/proc/self/net"


_SCOPES = 200
"""Beyond this many ports without a known owner the gap is not per port any more."""


def _ownerless(seen: Iterable[Listener], walk: Walk) -> Iterator[Unknown]:
    """A gap for each reachable port whose owner may be one of those that were left out.

    Only these ports, and the dynamic ones, which are judged together: what was found elsewhere can be resolved.
    """
    if not walk.unreadable and not walk.truncated:
        return
    missing = {each for each in seen if each.reachable and not each.process}
    scopes = {each.name for each in missing}
    if len(scopes) > _SCOPES:
        scopes = {each.protocol for each in missing}
    reason = "which process listens could not be seen: " + (
        "too many open files to look through" if walk.truncated else "some processes may not be looked into"
    )
    hint = "" if walk.truncated else "Run it as root, with CAP_SYS_PTRACE, to see this."
    for scope in sorted(scopes | {f"{each.protocol}/dynamic" for each in missing}):
        yield Unknown(reason=reason, hint=hint, scope=scope)


def _elsewhere(host: Host, pids: Iterable[int]) -> Iterator[Unknown]:
    """A gap if processes live in a network of their own that leads anywhere."""
    own = _link(host, "/proc/1/ns/net") or _link(host, "/proc/self/ns/net")
    members: dict[str, list[int]] = {}
    for pid in pids:
        namespace = _link(host, f"/proc/{pid}/ns/net")
        if own and namespace and namespace != own:
            members.setdefault(namespace, []).append(pid)
    count = sum(len(inside) for inside in members.values() if _leads_anywhere(host, inside[0]))
    if count:
        yield Unknown(
            reason=f"the ports of {count} processes in other network namespaces (containers) were not looked at",
            hint="Ports that a container publishes on the machine are seen all the same.",
            scope="network-namespace",
        )


def _leads_anywhere(host: Host, pid: int) -> bool:
    """Whether the network of a process has a route; one with loopback alone, as systemd gives services, has none."""
    try:
        if host.read(f"/proc/{pid}/net/route").count(b"\n") > 1:
            return True
        routes = host.read(f"/proc/{pid}/net/ipv6_route").splitlines()
    except AbsentError:
        return False
    except CannotLookError:
        return True
    return any(not line.endswith(b" lo") for line in routes)


def _link(host: Host, path: str) -> str:
    try:
        return host.link(path)
    except CannotLookError:
        return ""


def _users(host: Host) -> dict[int, str]:
    """Names for user numbers. Those that only a directory service knows stay numbers."""
    try:
        return parse_passwd(host.read("/etc/passwd"))
    except CannotLookError:
        return {}


def _dynamic_ports(host: Host) -> range:
    """The ports that the kernel hands out.

    https://docs.kernel.org/networking/ip-sysctl.html, whose default stands where it is not told.
    """
    try:
        low, high = map(int, host.line("/proc/sys/net/ipv4/ip_local_port_range").split())
    except (CannotLookError, ValueError):
        low, high = 32768, 60999
    return range(low, high + 1)
