"""RPM packages as facts: what rpm has installed, read from its database."""

from __future__ import annotations

import contextlib
import lzma
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.facts import rpm_header
from agent.facts.rpm import _FORMAT, RpmPackage, RpmPackages, parse_answer, read, rpm_packages
from agent.host import Host
from agent.model import AbsentError, CannotLookError, Unknown
from tests.fakes import rpm as fake
from tests.fakes.debian import STATUS, stanza
from tests.fakes.rpm import DATABASE, a_header, database, header, unfinished
from tests.fakes.trees import plant

NODEJS = RpmPackage(
    name="nodejs",
    epoch=1,
    version="18.19.1~rc2",
    release="1.module+el9",
    architecture="noarch",
    source="nodejs",
    vendor="Rocky Enterprise Software Foundation",
    module="nodejs:18",
)


def a_machine(place: Path, *headers: bytes) -> Host:
    database(place / DATABASE.lstrip("/"), headers)
    return Host(str(place))


def test_installed_packages_are_read_by_name(tmp_path):
    host = a_machine(tmp_path, a_header("zlib"), a_header("bash", "5.1.8", "9.el9", source="bash-5.1.8-9.el9.src.rpm"))
    seen = rpm_packages(host, Config())
    assert [(each.subject, each.evr, each.source) for each in seen.packages] == [
        ("rpm:bash:x86_64", "5.1.8-9.el9", "bash"),
        ("rpm:zlib:x86_64", "1.0-1.el9", "zlib"),
    ]
    assert seen.gaps == ()


def test_all_that_is_asked_of_a_package():
    text = a_header(
        "nodejs", "18.19.1~rc2", "1.module+el9", epoch=1, architecture="noarch",
        vendor="Rocky Enterprise Software Foundation", module="nodejs:18:9020230301:rhel9",
    )  # fmt: skip
    assert rpm_header.tags(text)[rpm_header.EPOCH] == 1
    assert NODEJS.evr == "1:18.19.1~rc2-1.module+el9"


def test_the_database_that_rpm_itself_made(tmp_path):
    packed = Path(__file__).parent / "data" / "rpmdb.sqlite.xz"
    seen = read(plant(tmp_path, {"/usr/lib/sysimage/rpm/rpmdb.sqlite": lzma.decompress(packed.read_bytes())}))
    assert [each.name for each in seen.packages] == ["nodejs", "nodejs-docs"]
    assert (seen.packages[0], seen.gaps) == (NODEJS, ())


def test_several_versions_of_a_kernel_are_several(tmp_path):
    seen = read(a_machine(tmp_path, a_header("kernel", release="2.el9"), a_header("kernel", release="1.el9")))
    assert [each.release for each in seen.packages] == ["1.el9", "2.el9"]


def test_keys_for_signatures_are_no_packages(tmp_path):
    keys = header({1000: "gpg-pubkey", 1001: "350d275d", 1002: "6279464b"})
    assert [each.name for each in read(a_machine(tmp_path, keys, a_header("bash"))).packages] == ["bash"]


def test_an_empty_database_beside_dpkg_is_quiet(tmp_path):
    host = a_machine(tmp_path)
    plant(tmp_path, {STATUS: stanza("rpm", "4.18")})
    assert read(host) == RpmPackages(packages=())


def test_an_empty_database_elsewhere_is_not_a_machine_without_packages(tmp_path):
    with pytest.raises(CannotLookError, match="no package at all"):
        read(a_machine(tmp_path))


def test_a_machine_without_rpm_says_so(tmp_path):
    with pytest.raises(AbsentError, match="no rpm database"):
        read(plant(tmp_path, {STATUS: stanza("bash", "5")}))


@pytest.mark.parametrize("name", ["Packages", "Packages.db"])
def test_a_database_that_rpm_alone_reads_is_not_an_absent_one(tmp_path, name):
    with pytest.raises(CannotLookError, match="only rpm reads") as caught:
        read(plant(tmp_path, {f"/var/lib/rpm/{name}": b"\0\0\0\0"}))
    assert not isinstance(caught.value, AbsentError)


def test_what_a_package_manager_has_not_yet_written_out_counts(tmp_path):
    host = a_machine(tmp_path, a_header("bash"))
    unfinished(Path(host.place(DATABASE)), [("INSERT INTO Packages (blob) VALUES (?)", (a_header("zlib"),))])
    assert [each.name for each in read(host).packages] == ["bash", "zlib"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_database_is_not_an_absent_one(tmp_path):
    host = a_machine(tmp_path, a_header("bash"))
    os.chmod(host.place(DATABASE), 0)
    with pytest.raises(CannotLookError, match="permission denied") as caught:
        read(host)
    assert not isinstance(caught.value, AbsentError)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff" * 40,
        a_header("x")[:-1],
        a_header("x") + b"\0",
        a_header("../x"),
        a_header("x", "1 2"),
        a_header("x", "\x1b[2J"),
        header({1000: "x", 1001: "1"}),
        header({1000: "x", 1001: "1", 1002: "1", 1003: "one"}),
        struct.pack(">6I", 1, 0, 1000, 6, 0xFFFFFFFF, 1),
    ],
)
def test_a_header_that_cannot_be_read_is_a_gap_and_stops_no_other(tmp_path, damaged):
    seen = read(a_machine(tmp_path, damaged, a_header("bash")))
    assert [each.name for each in seen.packages] == ["bash"]
    assert [gap.scope for gap in seen.gaps] == ["rpm:"]


def test_a_database_of_garbage_cannot_be_looked_at(tmp_path):
    with pytest.raises(CannotLookError, match="damaged"):
        read(a_machine(tmp_path, *(bytes([number]) for number in range(101)), *([b"xx"] * 101)))


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: a_header("x")[:-60] + tail))
def test_any_bytes_are_a_header_or_not(content):
    with contextlib.suppress(rpm_header.HeaderError):
        assert set(rpm_header.tags(content)) <= {1000, 1001, 1002, 1003, 1011, 1022, 1044, 5096}


def test_what_rpm_answers_is_read_line_by_line():
    text = (
        b"nodejs\t1\t18.19.1~rc2\t1.module+el9\tnoarch\tnodejs-18.19.1~rc2-1.module+el9.src.rpm\t"
        b"Rocky Enterprise Software Foundation\tnodejs:18:9020230301:rhel9\n"
        b"bash\t(none)\t5.1\t1\tx86_64\t(none)\t(none)\t(none)\n"
        b"gpg-pubkey\t(none)\t350d275d\t6279464b\t(none)\t(none)\t(none)\t(none)\n"
    )
    bash = RpmPackage(name="bash", epoch=0, version="5.1", release="1", architecture="x86_64", source="")
    assert list(parse_answer(text, "x")) == [NODEJS, bash, None]


@pytest.mark.parametrize("line", [b"", b"bash", b"bash\tone\t1\t1\tx\tx\tx\tx", b"bash\t1\t1\t1\tx\tx\tx\tx\tx"])
def test_a_line_of_another_form_is_a_gap(line):
    (gap,) = parse_answer(line + b"\n", "x")
    assert isinstance(gap, Unknown)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A root into which the rpm of this machine installed two packages."""
    if not fake.IS_HERE:
        pytest.skip("there is no rpm here to compare with: sudo apt-get install rpm")
    return fake.install(tmp_path_factory.mktemp("rpm"))


def test_rpm_says_the_same(installed):
    seen = read(Host(str(installed)))
    told = parse_answer(fake.rpm(installed, "-qa", "--qf", _FORMAT), "rpm")
    assert set(told) == set(seen.packages)
    assert NODEJS in seen.packages


def test_a_package_that_rpm_removed_is_gone(installed):
    fake.rpm(installed, "--erase", "--justdb", "nodejs-docs")
    assert [each.name for each in read(Host(str(installed))).packages] == ["nodejs"]


class OldMachine(Host):
    """A machine whose database rpm alone reads, and whose rpm is this shell script."""

    def __init__(self, root: str, script: str) -> None:
        super().__init__(root)
        self.command: tuple[str, ...] = ("/bin/sh", "-c", script)

    @property
    def is_live(self):
        return True

    def run(self, command, *, deadline, limit=1 << 20, called=""):
        assert command[:2] == ("/usr/bin/rpm", "-qa")
        return super().run(self.command, deadline=deadline, limit=limit, called=called)


def old_machine(place: Path, script: str) -> OldMachine:
    plant(place, {"/var/lib/rpm/Packages": b"\0\0\0\0"})
    return OldMachine(str(place), script)


def test_on_the_running_machine_rpm_is_asked_for_what_it_alone_reads(tmp_path):
    script = r"printf 'bash\t(none)\t4.4.20\t5.el8\tx86_64\tbash-4.4.20-5.el8.src.rpm\t(none)\t(none)\n'"
    seen = read(old_machine(tmp_path, script))
    assert [(each.name, each.evr, each.source) for each in seen.packages] == [("bash", "4.4.20-5.el8", "bash")]


def test_an_rpm_that_fails_has_not_said_that_there_is_nothing(tmp_path):
    with pytest.raises(CannotLookError, match="failed with status 1: cannot open"):
        read(old_machine(tmp_path, "echo cannot open >&2; exit 1"))


def test_an_rpm_that_is_not_there_has_not_said_that_there_is_nothing(tmp_path):
    host = old_machine(tmp_path, "")
    host.command = ("/nowhere/rpm",)
    with pytest.raises(CannotLookError, match="only rpm reads, and /nowhere/rpm") as caught:
        read(host)
    assert not isinstance(caught.value, AbsentError)
