"""Which TCP ports processes listen on and are connected to, by the sockets that they hold."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping

from agent.facts.ports import parse_address, parse_table
from agent.facts.workload import OpenPort, Remote
from agent.host import MEBIBYTE, Host
from agent.model import AbsentError, Value

_TABLE_BYTES = 32 * MEBIBYTE
# TCP_ESTABLISHED and TCP_SYN_SENT: https://github.com/torvalds/linux/blob/master/include/net/tcp_states.h
_CONNECTION = re.compile(
    rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) 0[12]"
    rb" \S+ \S+ +\S+ +\d+ +\d+ +(\d{1,20})",
    re.MULTILINE,
)


class Sockets(Value, frozen=True, kw_only=True):
    """The sockets of a network namespace by inode: those that listen, and where those go that were opened from here."""

    ports: Mapping[int, OpenPort]
    remotes: Mapping[int, Remote]


def sockets(host: Host, place: str, wanted: Collection[int]) -> Sockets:
    """Those of ``wanted`` in the network of the process with this directory in /proc.

    A connection to a port on which somebody listens here came in, and is left out.
    """
    ports, remotes, listening = dict[int, OpenPort](), dict[int, Remote](), set[int]()
    contents = [host.read(f"{place}/net/tcp", limit=_TABLE_BYTES)]
    with contextlib.suppress(AbsentError):  # a kernel without IPv6
        contents.append(host.read(f"{place}/net/tcp6", limit=_TABLE_BYTES))
    for content in contents:
        for each in parse_table(content, "tcp")[0]:
            listening.add(each.port)
            if each.inode in wanted:
                ports[each.inode] = OpenPort(port=each.port, address=each.address, exposure=each.exposure)
    for content in contents:
        for local, address, port, inode in _CONNECTION.findall(content):
            if int(inode) in wanted and int(local, 16) not in listening:
                remotes[int(inode)] = Remote(port=int(port, 16), exposure=parse_address(address)[1])
    return Sockets(ports=ports, remotes=remotes)
