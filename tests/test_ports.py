"""Listening sockets, as the kernel's tables and the open files of processes tell them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.facts.ports import Exposure, Listeners, listeners, parse_address, parse_table
from agent.host import Host
from agent.model import AbsentError
from tests.fakes.sockets import network, process, row, table, words
from tests.fakes.trees import plant

PASSWD = "root:x:0:0:root:/root:/bin/bash\nredis:x:109:115::/var/lib/redis:/usr/sbin/nologin\n"


def look(tmp_path, *parts: Mapping[str, str | bytes]) -> Listeners:
    files: dict[str, str | bytes] = {"/etc/passwd": PASSWD}
    for part in parts:
        files.update(part)
    seen: Listeners = listeners(plant(tmp_path, files), Config())
    return seen


COUNTED = "sockets: used 9\nTCP: inuse {0} orphan 0 tw {1} alloc {0} mem 1\nUDP: inuse 1 mem 2\n"


def test_a_glance_tells_a_new_listener_from_traffic(tmp_path):
    host = Host(str(tmp_path))

    def glance(count, closing, **tables):
        counted = {"/proc/1/net/sockstat": COUNTED.format(count, closing), "/proc/1/net/sockstat6": "TCP6: inuse 0\n"}
        plant(tmp_path, {**network(**tables), **counted})
        assert listeners.glance
        return listeners.glance(host, Config())

    ssh = row("0.0.0.0", 22, inode=41)
    first = glance(1, 0, tcp=[ssh])
    assert glance(1, 7, tcp=[ssh]) == first, "a connection that closes"
    assert glance(2, 0, tcp=[ssh, row("10.0.0.2", 50000, state="01", inode=42)]) == first, "a connection"
    assert glance(2, 0, tcp=[ssh], udp=[row("0.0.0.0", 45000, state="07", inode=43)]) == first, "a question"
    assert glance(3, 0, tcp=[ssh, row("0.0.0.0", 8888, inode=44)]) != first
    assert glance(3, 0, tcp=[ssh], udp=[row("0.0.0.0", 53, state="07", inode=45)]) != first


def test_a_machine_where_nothing_listens_has_no_listeners_and_no_gaps(tmp_path):
    assert look(tmp_path, network()) == Listeners(listeners=())


def test_a_listener_is_known_with_its_process_user_and_unit(tmp_path):
    redis = process(
        700, 41, comm="redis-server", executable="/usr/bin/redis-check-rdb",
        cgroup="0::/system.slice/redis-server.service\n",
    )  # fmt: skip
    seen = look(tmp_path, network(tcp=[row("0.0.0.0", 6379, inode=41, uid=109)]), redis)
    (listener,) = seen.listeners
    assert (listener.name, listener.address, listener.exposure) == ("tcp/6379", "0.0.0.0", Exposure.WILDCARD)
    assert (listener.process, listener.user, listener.pid) == ("redis-server", "redis", 700)
    assert (listener.executable, listener.unit) == ("/usr/bin/redis-check-rdb", "redis-server.service")
    assert seen.gaps == ()


def test_connections_and_connected_udp_sockets_are_not_listeners(tmp_path):
    tables = network(tcp=[row("10.0.0.2", 22, inode=1, state="01"), row("10.0.0.2", 22, inode=0, state="06")],
                     udp=[row("10.0.0.2", 40000, inode=2, state="01")])  # fmt: skip
    assert look(tmp_path, tables).listeners == ()


def test_an_unconnected_udp_socket_is_a_listener(tmp_path):
    (listener,) = look(tmp_path, network(udp=[row("127.0.0.1", 323, inode=2, state="07")])).listeners
    assert (listener.name, listener.exposure, listener.dynamic) == ("udp/323", Exposure.LOOPBACK, False)


def test_what_the_kernel_itself_holds_has_no_process_and_is_no_gap(tmp_path):
    seen = look(tmp_path, network(tcp=[row("0.0.0.0", 2049, inode=5)]), process(10))
    assert [(each.process, each.pid) for each in seen.listeners] == [("", None)]
    assert seen.gaps == ()


def test_sockets_that_share_a_port_are_one_listener_of_the_oldest_process(tmp_path):
    tables = network(tcp=[row("127.0.0.1", 8000, inode=inode) for inode in (7, 8, 9)])
    workers = [process(pid, inode, comm="gunicorn") for pid, inode in ((300, 7), (200, 8), (400, 9))]
    (listener,) = look(tmp_path, tables, *workers).listeners
    assert listener.pid == 200


def test_both_families_and_different_programs_of_one_port_stay_apart(tmp_path):
    tables = network(
        tcp=[row("0.0.0.0", 80, inode=1), row("127.0.0.1", 8080, inode=3), row("10.0.0.2", 8080, inode=4)],
        tcp6=[row("::", 80, inode=2)],
    )
    seen = look(tmp_path, tables, process(9, 1, 2, 3, comm="nginx"), process(8, 4, comm="python3"))
    assert [(each.address, each.port, each.process) for each in seen.listeners] == [
        ("0.0.0.0", 80, "nginx"), ("::", 80, "nginx"), ("10.0.0.2", 8080, "python3"), ("127.0.0.1", 8080, "nginx"),
    ]  # fmt: skip


def test_a_socket_of_a_socket_unit_belongs_to_the_service_and_not_to_process_1(tmp_path):
    tables = network(tcp=[row("0.0.0.0", 22, inode=1)])
    (listener,) = look(tmp_path, tables, process(1, 1, comm="systemd"), process(650, 1, comm="sshd")).listeners
    assert listener.process == "sshd"


def test_a_child_that_inherits_a_socket_does_not_own_it(tmp_path):
    tables = network(tcp=[row("0.0.0.0", 8888, inode=1)])
    seen = look(tmp_path, tables, process(500, 1, comm="jupyter-lab"), process(900, 1, comm="sleep"))
    assert seen.listeners[0].process == "jupyter-lab"


def test_ports_from_the_kernels_range_are_dynamic(tmp_path):
    span = {"/proc/sys/net/ipv4/ip_local_port_range": "20000\t20001\n"}
    tables = network(tcp=[row("127.0.0.1", port, inode=port) for port in (19999, 20000, 20001, 20002)])
    assert [each.dynamic for each in look(tmp_path, tables, span).listeners] == [False, True, True, False]


@pytest.mark.parametrize("written", ["", "x y\n", "1 2 3\n"])
def test_a_port_range_that_cannot_be_understood_is_the_kernels_default(tmp_path, written):
    span = {"/proc/sys/net/ipv4/ip_local_port_range": written}
    tables = network(tcp=[row("127.0.0.1", port, inode=port) for port in (32767, 32768)])
    assert [each.dynamic for each in look(tmp_path, tables, span).listeners] == [False, True]


@pytest.mark.parametrize(
    ("address", "text", "exposure"),
    [
        ("127.0.0.53", "127.0.0.53", Exposure.LOOPBACK),
        ("::1", "::1", Exposure.LOOPBACK),
        ("::ffff:127.0.0.1", "127.0.0.1", Exposure.LOOPBACK),
        ("::ffff:0.0.0.0", "0.0.0.0", Exposure.WILDCARD),
        ("::ffff:10.128.0.2", "10.128.0.2", Exposure.PRIVATE),
        ("10.128.0.2", "10.128.0.2", Exposure.PRIVATE),
        ("100.64.0.1", "100.64.0.1", Exposure.PRIVATE),
        ("169.254.1.1", "169.254.1.1", Exposure.PRIVATE),
        ("224.0.0.251", "224.0.0.251", Exposure.PRIVATE),
        ("fe80::1", "fe80::1", Exposure.PRIVATE),
        ("fd20::1", "fd20::1", Exposure.PRIVATE),
        ("34.1.2.3", "34.1.2.3", Exposure.PUBLIC),
        ("2600:1900::1", "2600:1900::1", Exposure.PUBLIC),
        ("0.0.0.0", "0.0.0.0", Exposure.WILDCARD),
        ("::", "::", Exposure.WILDCARD),
    ],
)
def test_an_address_tells_from_where_it_is_reached(address, text, exposure):
    assert parse_address(words(address).encode()) == (text, exposure)


def test_lines_as_real_kernels_write_them_are_understood():
    # Linux 6.1, first of /proc/net/tcp, then of tcp6, udp6; the columns after the inode differ.
    tcp = (
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        b"   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 17461 1 "
        b"00000000b86c6f6c 100 0 0 10 5                     \n"
        b"  11: 0200800A:A6D2 FEA9FEA9:0050 06 00000000:00000000 03:000011F4 00000000     0        0 0 3 0000000000\n"
    )
    tcp6 = (
        b"  sl  local_address                         remote_address                        st tx_queue rx_queue\n"
        b"   1: 00000000000000000000000001000000:22B8 00000000000000000000000000000000:0000 0A 00000000:00000000 "
        b"00:00000000 00000000  1000        0 31337 1 0000000000000000 100 0 0 10 0\n"
    )
    udp6 = (
        b"   sl  local_address                         remote_address                        st tx_queue rx_queue\n"
        b"  517: 000080FE00000000FF005450FE00B80E:0222 00000000000000000000000000000000:0000 07 00000000:00000000 "
        b"00:00000000 00000000   998        0 16003 2 0000000000000000 0\n"
    )
    (resolved,), _ = parse_table(tcp, "tcp")
    (jupyter,), _ = parse_table(tcp6, "tcp")
    (dhcp,), _ = parse_table(udp6, "udp")
    assert (resolved.address, resolved.port, resolved.uid, resolved.inode) == ("127.0.0.53", 53, 101, 17461)
    assert (jupyter.address, jupyter.port) == ("::1", 8888)
    assert (dhcp.address, dhcp.port) == ("fe80::5054:ff:eb8:fe", 546)


@given(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)))
def test_an_address_comes_back_as_the_c_library_reads_it(packed):
    text = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    expected = ipaddress.ip_address(text)
    mapped = getattr(expected, "ipv4_mapped", None)
    assert parse_address(words(text).encode())[0] == str(mapped or expected)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_table_in_which_every_line_is_counted(content):
    sockets, malformed = parse_table(b"header\n" + content, "tcp")
    assert sockets == []
    assert malformed == [number for number, line in enumerate(content.split(b"\n"), start=2) if line.strip()]


@given(
    st.ip_addresses(),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63),
)
def test_a_written_line_is_read_back(address, port, uid, inode):
    (read,), malformed = parse_table(table([row(str(address), port, inode=inode, uid=uid)]).encode(), "tcp")
    assert (read.port, read.uid, read.inode, malformed) == (port, uid, inode, [])


def test_lines_that_are_not_understood_are_a_gap_that_names_them(tmp_path):
    lines = [row("0.0.0.0", 80, inode=1), "   1: 0000:zz\n", row("0.0.0.0", 81, inode=2)[:40] + "\n"]
    seen = look(tmp_path, network(tcp=lines))
    assert [each.name for each in seen.listeners] == ["tcp/80"]
    (gap,) = seen.gaps
    assert "/proc/1/net/tcp: 2 lines" in gap.reason
    assert "line 3, 4" in gap.reason
    assert gap.covers("tcp/8888")
    assert not gap.covers("udp/53")


def test_a_machine_without_its_tables_cannot_be_looked_at(tmp_path):
    with pytest.raises(AbsentError, match="/proc/self/net/tcp"):
        look(tmp_path, {"/proc/1/comm": "init\n"})


def test_without_process_1_the_tables_are_our_own(tmp_path):
    own = {path.replace("/proc/1/", "/proc/self/"): content for path, content in network().items()}
    assert look(tmp_path, own).listeners == ()


def test_a_process_that_ends_during_the_walk_hides_nothing_else(tmp_path):
    tables = network(tcp=[row("0.0.0.0", 80, inode=1), row("0.0.0.0", 81, inode=2)])
    ended = {"/proc/50/": "", "/proc/60/fd/3": "-> socket:[1]"}  # before, and after its files were listed
    seen = look(tmp_path, tables, ended, process(70, 2, comm="nginx"))
    assert [(each.port, each.process) for each in seen.listeners] == [(80, ""), (81, "nginx")]
    assert seen.gaps == ()


def test_an_owner_that_cannot_be_seen_is_a_gap_for_that_port_alone(tmp_path):
    tables = network(tcp=[row("0.0.0.0", 80, inode=1, uid=109), row("127.0.0.1", 81, inode=2)])
    closed = {"/proc/50/fd": "-> fd"}  # a loop: an error that is not absence
    seen = look(tmp_path, tables, closed)
    assert [(each.process, each.user) for each in seen.listeners] == [("", "redis"), ("", "root")]
    assert [gap.scope for gap in seen.gaps] == ["tcp/80", "tcp/dynamic"]
    assert "CAP_SYS_PTRACE" in seen.gaps[0].hint
    assert any(gap.covers("tcp/dynamic#ray") for gap in seen.gaps)
    assert not any(gap.covers("tcp/8888") for gap in seen.gaps)


def test_very_many_ports_without_an_owner_are_one_gap_a_protocol(tmp_path):
    tables = network(tcp=[row("0.0.0.0", port, inode=port) for port in range(1000, 1500)])
    seen = look(tmp_path, tables, {"/proc/50/fd": "-> fd"})
    assert [gap.scope for gap in seen.gaps] == ["tcp", "tcp/dynamic"]


def test_a_name_with_escapes_is_shown_and_not_sent(tmp_path):
    hostile = process(9, 1, comm=b"a\n\x1b[2J\xff", executable="/tmp/x\ny")
    (listener,) = look(tmp_path, network(tcp=[row("0.0.0.0", 80, inode=1)]), hostile).listeners
    assert (listener.process, listener.executable) == ("a\\u000a\\u001b[2J\\xff", "/tmp/x\\u000ay")


def test_a_user_that_passwd_does_not_know_stays_a_number(tmp_path):
    (listener,) = look(tmp_path, network(tcp=[row("0.0.0.0", 80, inode=1, uid=4_000_000_000)])).listeners
    assert (listener.uid, listener.user) == (4_000_000_000, "")


def test_two_thousand_sockets_of_five_hundred_processes_each_find_their_owner(tmp_path):
    tables = network(tcp=[row("10.0.0.2", 10_000 + number, inode=number + 1) for number in range(2000)])
    crowd = [
        process(100 + number, *range(number * 4 + 1, number * 4 + 5), comm=f"worker-{number}") for number in range(500)
    ]
    seen = look(tmp_path, tables, *crowd)
    assert [(each.port, each.process) for each in seen.listeners] == [
        (10_000 + number, f"worker-{number // 4}") for number in range(2000)
    ]
    assert seen.gaps == ()


def namespaces(**routes: str) -> dict[str, str | bytes]:
    """Process 1 in the machine's network, and process 20, 21 in another with these routes."""
    links = {1: "net:[4026531840]", 20: "net:[4026532000]", 21: "net:[4026532000]", 22: "net:[4026531840]"}
    header = "Iface\tDestination\tGateway\n"
    return {
        **{f"/proc/{pid}/ns/net": f"-> {link}" for pid, link in links.items()},
        "/proc/20/net/route": header + routes.get("route", ""),
        "/proc/20/net/ipv6_route": routes.get(
            "ipv6_route", "0000 00 0000 00 0000 ffffffff 00000001 0 00200200       lo\n"
        ),
    }


def test_a_service_that_systemd_cut_off_from_the_network_is_no_gap(tmp_path):
    assert look(tmp_path, network(), namespaces()).gaps == ()


@pytest.mark.parametrize("routes", [{"route": "eth0\t00000000\t010011AC\n"}, {"ipv6_route": "fe80 40 0 eth0\n"}])
def test_containers_with_a_network_of_their_own_are_a_gap_that_keeps_no_finding_open(tmp_path, routes):
    (gap,) = look(tmp_path, network(), namespaces(**routes)).gaps
    assert "2 processes in other network namespaces" in gap.reason
    assert not gap.covers("tcp/8888")


def test_real_sockets_are_found_with_their_owner():
    with contextlib.ExitStack() as stack:
        tcp4, tcp6, udp, connected = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_STREAM),
                (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_DGRAM),
            )
        )  # fmt: skip
        tcp4.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for each in (tcp4, udp, connected):
            each.bind(("127.0.0.1", 0))
        tcp4.listen()
        second = stack.enter_context(socket.socket())
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.bind(tcp4.getsockname())
        second.listen()
        connected.connect(udp.getsockname())
        expected = {("tcp", "127.0.0.1", tcp4.getsockname()[1]), ("udp", "127.0.0.1", udp.getsockname()[1])}
        with contextlib.suppress(OSError):  # a machine without IPv6 has no ::1
            tcp6.bind(("::1", 0))
            tcp6.listen()
            expected.add(("tcp", "::1", tcp6.getsockname()[1]))
        seen: Listeners = listeners(Host(), Config())
    mine = [each for each in seen.listeners if each.pid == os.getpid()]
    assert {(each.protocol, each.address, each.port) for each in mine} == expected
    assert len(mine) == len(expected)
    assert {(each.uid, each.exposure) for each in mine} == {(os.geteuid(), Exposure.LOOPBACK)}
    assert all(re.match("py", each.process) for each in mine)
