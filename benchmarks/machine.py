"""A machine as a tree of files, of the size that the budgets speak of: packages, distributions, processes.

What is in it is made up but shaped as on a Deep Learning VM: names, sizes of the files, how deep they lie. The same
call makes the same tree.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

DEBS = 750
PROCESSES = 200
ENVIRONMENTS = {
    "/opt/conda/lib/python3.12/site-packages": 450,
    "/usr/lib/python3/dist-packages": 60,
    "/usr/local/lib/python3.11/dist-packages": 40,
    "/home/jupyter/training/lib/python3.11/site-packages": 200,
    "/srv/serving/lib/python3.11/site-packages": 100,
}
"""Where Python distributions lie, and how many: 850 in all."""

_SECURITY_UPDATES = 3000
_KERNEL = "6.1.0-30-cloud-amd64"
_WORDS = ("arrow", "beam", "cloud", "data", "edge", "flow", "graph", "hub", "index", "jet", "kernel", "layer", "mesh")
_PROSE = "A library that other parts of this machine need, described in a line of the usual length for such texts.\n"


def generate(root: str) -> None:
    """Make the machine under ``root``, an empty directory."""
    for path, content in _files():
        place = root + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w", encoding="utf-8") as file:
            file.write(content)
    for path, target in _links():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)


def _files() -> Iterator[tuple[str, str]]:
    yield from _system()
    yield from _debs()
    for directory, number in ENVIRONMENTS.items():
        yield from _distributions(directory, number)
    for pid in _pids():
        yield from _process(pid)
    yield from _network()


def _links() -> Iterator[tuple[str, str]]:
    yield "/proc/net", "1/net"
    yield "/bin", "usr/bin"
    for pid in _pids():
        if not _is_kernel_thread(pid):
            yield f"/proc/{pid}/exe", "/usr/bin/python3.11"
            yield f"/proc/{pid}/cwd", "/"
            for number in range(20):
                yield f"/proc/{pid}/fd/{number}", f"socket:[{pid * 100 + number}]" if number > 14 else "/dev/null"  # noqa: PLR2004 -- five sockets each


def _system() -> Iterator[tuple[str, str]]:
    yield "/etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
    yield "/etc/debian_version", "12.8\n"
    yield "/etc/machine-id", "0123456789abcdef0123456789abcdef\n"
    yield "/etc/hostname", "gpu-1\n"
    users = [("root", 0, "/root"), ("jupyter", 1000, "/home/jupyter"), ("ana", 1001, "/home/ana")]
    yield "/etc/passwd", "".join(f"{name}:x:{uid}:{uid}::{home}:/bin/bash\n" for name, uid, home in users)
    yield "/etc/group", "".join(f"{name}:x:{uid}:\n" for name, uid, _ in users) + "sudo:x:27:jupyter\n"
    yield "/etc/shadow", "".join(f"{name}:!:19700:0:99999:7:::\n" for name, _, _ in users)
    yield "/etc/sudoers", "Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n"
    yield "/etc/ssh/sshd_config", "PermitRootLogin no\nPasswordAuthentication no\nUsePAM yes\n"
    yield "/sys/class/dmi/id/product_name", "Standard PC\n"
    yield "/proc/sys/kernel/hostname", "gpu-1\n"
    yield "/proc/sys/kernel/osrelease", f"{_KERNEL}\n"
    yield "/proc/sys/kernel/random/boot_id", "8f1d0c86-0000-4000-8000-000000000000\n"
    yield "/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"
    yield "/proc/uptime", "86400.00 600000.00\n"
    yield "/proc/stat", "cpu  1 2 3 4 5 6 7 0 0 0\nbtime 1764000000\n"
    yield "/proc/modules", "".join(f"module_{number} 16384 0 - Live 0x0000000000000000\n" for number in range(90))
    yield f"/boot/vmlinuz-{_KERNEL}", "kernel"
    yield f"/lib/modules/{_KERNEL}/modules.builtin", "kernel/fs/ext4/ext4.ko\n"


def _name(number: int) -> str:
    return f"{_WORDS[number % 13]}-{_WORDS[number // 13 % 13]}-{number}"


def _debs() -> Iterator[tuple[str, str]]:
    lists = "/var/lib/apt/lists/deb.debian.org_debian"
    installed = [_stanza(number, "Status: install ok installed\n") for number in range(DEBS)]
    yield "/var/lib/dpkg/status", "\n".join(installed)
    for number in range(DEBS):
        files = [f"/usr/share/{_name(number)}/part{part}" for part in range(40)]
        yield f"/var/lib/dpkg/info/{_name(number)}.list", "\n".join(files) + "\n"
        yield f"/var/lib/dpkg/info/{_name(number)}.md5sums", "".join(f"{'0' * 32}  {each[1:]}\n" for each in files)
    for suite, number in (("", DEBS), ("-security", _SECURITY_UPDATES)):
        address = f"{lists}{suite}_dists_bookworm{suite}"
        label = "Debian-Security" if suite else "Debian"
        dated = "Sun, 22 Nov 2026 12:00:00 UTC"
        yield f"{address}_InRelease", f"Origin: Debian\nLabel: {label}\nCodename: bookworm{suite}\nDate: {dated}\n"
        stanzas = (_stanza(each, f"Filename: pool/{_name(each)}.deb\nSHA256: {'0' * 64}\n") for each in range(number))
        yield f"{address}_main_binary-amd64_Packages", "\n".join(stanzas)


def _stanza(number: int, more: str) -> str:
    return (
        f"Package: {_name(number)}\n{more}Priority: optional\nSection: libs\nInstalled-Size: {number * 7}\n"
        f"Maintainer: The maintainers of it <maintainers@example.org>\nArchitecture: amd64\n"
        f"Source: {_name(number - number % 3)}\nVersion: 1:{number % 9}.{number % 17}.2-{number % 5}+deb12u1\n"
        f"Depends: libc6 (>= 2.36), {_name(number // 2)} (>= 1.0)\nDescription: {_PROSE} {_PROSE} {_PROSE} {_PROSE}"
    )


def _distributions(directory: str, number: int) -> Iterator[tuple[str, str]]:
    home = directory.rpartition("/lib/")[0]
    if home.startswith(("/home", "/srv")):
        yield f"{home}/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"
        yield f"{home}/bin/python", "#!"
    for each in range(number):
        name, version = _name(each), f"{each % 7}.{each % 11}.{each % 3}"
        package = f"{directory}/{name.replace('-', '_')}"
        modules = [f"{package}/{part}/module{file}.py" for part in ("", "inner", "inner/deep") for file in range(4)]
        for module in modules:
            yield module.replace("//", "/"), f'"""{_PROSE}"""\n'
        information = f"{package}-{version}.dist-info"
        requirements = "".join(f"Requires-Dist: {_name(each + other)}>=1.0\n" for other in range(8))
        yield (
            f"{information}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {_PROSE}{requirements}\n{_PROSE * 50}",
        )
        yield f"{information}/RECORD", "".join(f"{module},sha256={'A' * 43},100\n" for module in modules * 5)
        yield f"{information}/INSTALLER", "pip\n"
        yield f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def _pids() -> range:
    return range(1, PROCESSES * 7, 7)


def _is_kernel_thread(pid: int) -> bool:
    return 1 < pid <= PROCESSES * 7 // 2


def _process(pid: int) -> Iterator[tuple[str, str]]:
    kernel = _is_kernel_thread(pid)
    name = f"kworker/{pid}" if kernel else "systemd" if pid == 1 else f"python{pid}"
    yield f"/proc/{pid}/comm", f"{name}\n"
    yield f"/proc/{pid}/cmdline", "" if kernel else f"/usr/bin/python3\0-m\0{name}\0--port\0{8000 + pid}\0"
    yield f"/proc/{pid}/environ", "" if kernel else "HOME=/root\0PATH=/usr/bin:/bin\0" + "NAME=value\0" * 30
    yield f"/proc/{pid}/cgroup", f"0::/system.slice/unit-{pid}.service\n"
    yield f"/proc/{pid}/stat", f"{pid} ({name}) S {0 if pid == 1 else 1} {pid} {pid} 0 -1 4194304 {'0 ' * 44}\n"
    identity = "".join(f"{kind}:\t0\t0\t0\t0\n" for kind in ("Uid", "Gid"))
    yield (
        f"/proc/{pid}/status",
        f"Name:\t{name}\nState:\tS (sleeping)\nPid:\t{pid}\n{identity}CapEff:\t0000000000000000\n",
    )
    mapped = "7f0000000000-7f0000021000 r-xp 00000000 08:01 100 /usr/lib/x86_64-linux-gnu/libc.so.6\n"
    yield f"/proc/{pid}/maps", "" if kernel else mapped * 120


def _network() -> Iterator[tuple[str, str]]:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    held = [pid * 100 + 15 for pid in _pids() if not _is_kernel_thread(pid)]
    line = "{:4}: 00000000:{:04X} {} {} 00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0\n"
    listening = [line.format(at, 8000 + at, "00000000:0000", "0A", inode) for at, inode in enumerate(held[:12])]
    connected = [line.format(at, 8000, f"0100007F:{40000 + at:04X}", "01", inode) for at, inode in enumerate(held[12:])]
    yield "/proc/1/net/tcp", head + "".join(listening + connected)
    for name in ("tcp6", "udp", "udp6"):
        yield f"/proc/1/net/{name}", head
    yield "/proc/1/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    yield "/proc/1/net/ipv6_route", ""


if __name__ == "__main__":
    generate(sys.argv[1])
