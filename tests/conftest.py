"""What several tests stand on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fakes.box import Box

# A suite that is started in the background inherits that Ctrl-C is ignored, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one mebibyte, to be filled."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="session")
def room(tmp_path_factory):
    """A place in memory for boxes, on which overlays can write."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    place = tmp_path_factory.mktemp("room")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    trial = Box(place / "trial").run("true")
    if trial.returncode:
        subprocess.run(["umount", "-l", place], check=True)
        pytest.skip(f"overlays cannot be mounted here: {trial.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def box(room, request):
    """A bare machine."""
    place = room / f"box-{abs(hash(request.node.nodeid))}"
    yield Box(place)
    shutil.rmtree(place)


@pytest.fixture
def alone(tmp_path):
    """The script as a startup script is: with nothing beside it."""
    return shutil.copy(Path(__file__).parents[1] / "install.sh", tmp_path)
