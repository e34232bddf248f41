"""Which installed kernels will not be booted again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts.kernels import superseded_kernel_rpms, superseded_kernels
from agent.facts.packages import Package, parse_status
from agent.facts.rpm import RpmPackage
from tests.fakes.debian import stanza

RUNNING = "6.1.0-30-cloud-amd64"


def installed(*names: str) -> tuple[Package, ...]:
    return parse_status("".join(stanza(name, "6.1") for name in names).encode()).packages


def superseded(*names: str, running: str = RUNNING) -> set[str]:
    return {package.name for package in superseded_kernels(installed(*names), running)}


@pytest.mark.parametrize(
    "names",
    [
        ["linux-image-6.1.0-30-cloud-amd64"],
        ["linux-image-6.1.0-30-cloud-amd64", "linux-image-6.1.0-31-cloud-amd64"],
        ["linux-image-6.1.0-30-cloud-amd64", "linux-image-6.1.0-9-amd64"],
        ["linux-image-cloud-amd64", "linux-headers-cloud-amd64", "linux-image-gcp", "linux-headers-gcp-6.8"],
        ["linux-libc-dev", "linux-base", "linux-kbuild-6.1", "linux-compiler-gcc-12-x86", "linux-tools-common"],
        ["linux-image-6.1.0-30-cloud-amd64", "linux-headers-6.1.0-30-cloud-amd64", "linux-headers-6.1.0-30-common"],
        ["linux-image-6.1.0-30-cloud-amd64", "linux-image-6.1.0-30-cloud-amd64-dbg"],
        [],
    ],
)
def test_the_running_kernel_and_the_newest_of_each_flavour_stay(names):
    assert superseded(*names) == set()


def test_older_kernels_of_debian_with_all_that_is_theirs():
    old = {
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-29-cloud-amd64",
        "linux-image-6.1.0-29-cloud-amd64-dbg",
        "linux-headers-6.1.0-29-cloud-amd64",
        "linux-headers-6.1.0-29-common",
    }
    assert superseded(*old, "linux-image-6.1.0-30-cloud-amd64", "linux-image-6.12.43+deb13-cloud-amd64") == old


def test_older_kernels_of_ubuntu_with_all_that_is_theirs():
    def of(release: str) -> set[str]:
        return {
            f"linux-image-{release}-gcp",
            f"linux-modules-{release}-gcp",
            f"linux-modules-extra-{release}-gcp",
            f"linux-modules-nvidia-570-server-open-{release}-gcp",
            f"linux-headers-{release}-gcp",
            f"linux-gcp-6.8-headers-{release}",
            f"linux-gcp-headers-{release}",
            f"linux-tools-{release}-gcp",
        }

    names = of("6.8.0-1019") | of("6.8.0-1020") | of("6.8.0-1021") | of("6.8.0-1018")
    gone = superseded(*names, running="6.8.0-1019-gcp")
    assert gone == of("6.8.0-1020") | of("6.8.0-1018")


def test_headers_without_their_kernel_are_left_over():
    assert superseded("linux-image-6.1.0-30-cloud-amd64", "linux-headers-6.1.0-31-cloud-amd64") == {
        "linux-headers-6.1.0-31-cloud-amd64"
    }


def test_under_a_kernel_of_no_package_the_newest_stays():
    names = ("linux-image-6.1.0-29-cloud-amd64", "linux-image-6.1.0-30-cloud-amd64")
    assert superseded(*names, running="6.18.44-fc") == {names[0]}


def test_a_removed_kernel_is_not_there():
    text = stanza("linux-image-6.1.0-29-cloud-amd64", "6.1", status="deinstall ok config-files")
    assert superseded_kernels(parse_status(text.encode()).packages, RUNNING) == ()


@given(st.lists(st.from_regex(r"linux-(image|headers|modules)-[0-9a-c.+-]{1,12}", fullmatch=True)), st.text())
def test_the_newest_image_always_stays(names, running):
    gone = superseded(*names, running=running)
    images = [name for name in names if name.startswith("linux-image-")]
    assert gone <= set(names)
    assert not images or set(images) - gone


def an_rpm(name: str, release: str) -> RpmPackage:
    return RpmPackage(name=name, epoch=0, version="5.14.0", release=release, architecture="x86_64", source="kernel")


def test_rpm_keeps_the_newest_and_the_running_kernel():
    kernels = [an_rpm("kernel-core", release) for release in ("503.el9", "427.el9", "570.el9")]
    others = [an_rpm("bash", "1.el9"), an_rpm("bash", "2.el9"), an_rpm("kernel-tools", "427.el9")]
    gone = superseded_kernel_rpms([*kernels, *others], "5.14.0-503.el9.x86_64+64k")
    assert gone == (kernels[1],)
