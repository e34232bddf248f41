"""Machines to install on, and the cloud around them."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import __version__
from tests.boot import rootfs
from tests.boot.cloud import Cloud
from tests.boot.installation import ROOT, Installation, bundled
from tests.boot.machine import Machine, Network
from tests.fakes.bundles import NEXT, next_version


@pytest.fixture(scope="session")
def builds():
    """The root directories of all releases, made at the same time: each mostly waits for the network and the disk."""
    try:
        rootfs.check()
    except rootfs.CannotBootError as error:
        pytest.skip(str(error))
    with ThreadPoolExecutor() as pool:
        yield {release: pool.submit(rootfs.built, release) for release in rootfs.RELEASES}


@pytest.fixture(scope="session", params=rootfs.RELEASES)
def release(request, builds):
    """The root directory of each Debian release in turn."""
    try:
        return builds[request.param].result()
    except rootfs.CannotBootError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def network(release):
    """A network of its own for each machine, and so a cloud that knows of no other."""
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def cloud(network):
    """The metadata server and Cloud Logging, on the machine's own loopback."""
    with network.entered():
        cloud = Cloud()
    with cloud:
        yield cloud


@pytest.fixture(scope="module")
def machine(release, network, tmp_path_factory):
    """A machine with nothing of ours on it, booted."""
    with Machine(release, tmp_path_factory.mktemp("machine") / "disk", network) as machine:
        machine.boot()
        yield machine


@pytest.fixture(scope="session")
def bundle(builds, tmp_path_factory):
    """The bundle of this tree, or the one that DLVMGUARD_BOOT_BUNDLE names, which saves a minute of making it."""
    made = os.environ.get("DLVMGUARD_BOOT_BUNDLE")
    return Path(made) if made else bundled(ROOT, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def installation(machine, cloud, bundle):
    """A booted machine with everything at hand for an installation, and nothing installed."""
    return Installation(machine, cloud, bundle)


@pytest.fixture(scope="session")
def newer(bundle, tmp_path_factory):
    """A bundle of a later version."""
    place = tmp_path_factory.mktemp("newer")
    shutil.unpack_archive(bundle, place, filter="data")
    (unpacked,) = place.iterdir()
    made = next_version(unpacked, place / unpacked.name.replace(__version__, NEXT))
    return Path(shutil.make_archive(str(place / made.name), "gztar", place, made.name))
