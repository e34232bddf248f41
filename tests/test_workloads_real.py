"""GPU work of real processes: what is said of them is the kernel's own, only the GPU's nodes are plain files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from agent.facts.ports import Exposure
from tests.fakes.gpu_processes import gpu_machine

CAN_MOUNT = (
    os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
)
pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="needs root and the right to mount")

WAIT = "import sys; print('x', flush=True); sys.stdin.read()"
CANARY = "canary-51c0de"


@pytest.fixture(scope="module")
def machine():
    with gpu_machine() as made:
        yield made


def test_a_process_without_the_gpu_is_no_workload(machine):
    assert os.getpid() not in {each.pid for each in machine.look().workloads}


def test_a_process_is_known_by_its_start_its_user_and_its_program(machine):
    pid = machine.start(sys.executable, "-c", WAIT)
    seen = machine.seen(pid)
    assert seen.started == int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert (seen.uid, seen.user, seen.parent) == (0, "root", os.getpid())
    assert (seen.program.path, seen.program.origin) == (os.path.realpath(sys.executable), "file")
    assert [gpu.minor for gpu in seen.gpus] == [0]
    assert (seen.preload, seen.named, seen.ports, seen.models) == ((), (), (), ())


def test_a_virtual_environment_is_the_environment(machine, tmp_path):
    venv.create(tmp_path / "work", symlinks=True)
    (packages,) = (tmp_path / "work/lib").glob("python*/site-packages")
    script = tmp_path / "train.py"
    script.write_text(WAIT)
    environment = {"VIRTUAL_ENV": str(tmp_path / "work"), "API_KEY": CANARY, "PATH": os.environ["PATH"]}
    pid = machine.start(
        str(tmp_path / "work/bin/python"),
        "train.py",
        f"--token={CANARY}",
        environment=environment,
        folder=str(tmp_path),
    )
    seen = machine.seen(pid)
    assert str(packages) in seen.environments
    assert seen.prefix == str(tmp_path / "work")
    assert seen.program.script == str(script)
    assert CANARY not in repr(seen)


def test_a_prefix_as_conda_makes_it_is_the_environment(machine, tmp_path):
    prefix = tmp_path / "envs/research"
    packages = prefix / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), prefix / "bin/python3")
    environment = {
        "CONDA_PREFIX": str(prefix),
        "PYTHONHOME": sys.base_prefix,
        "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
    }
    seen = machine.seen(machine.start(str(prefix / "bin/python3"), "-c", WAIT, environment=environment))
    assert seen.prefix == str(prefix)
    assert str(packages) in seen.environments


@pytest.fixture
def sleeper(tmp_path):
    """A program of its own that says a line and waits."""
    path = tmp_path / "sleeper"
    source = tmp_path / "sleeper.c"
    source.write_text('#include <unistd.h>\nint main(void) { write(1, "x\\n", 2); for (;;) pause(); }\n')
    subprocess.run(["gcc", "-o", path, source], check=True)
    return path


def test_a_program_that_was_deleted_or_replaced_is_told_from_one_that_is_there(machine, sleeper):
    pid = machine.start(str(sleeper))
    assert (machine.seen(pid).program.path, machine.seen(pid).program.origin) == (str(sleeper), "file")
    copy = sleeper.with_name("copy")
    shutil.copy(sleeper, copy)
    sleeper.unlink()
    assert (machine.seen(pid).program.path, machine.seen(pid).program.origin) == (str(sleeper), "deleted")
    copy.rename(sleeper)
    assert (machine.seen(pid).program.path, machine.seen(pid).program.origin) == (str(sleeper), "replaced")


def test_a_decoy_with_the_name_of_a_deleted_program_deceives_nobody(machine, sleeper):
    pid = machine.start(str(sleeper))
    shutil.copy(sleeper, f"{sleeper} (deleted)")
    sleeper.unlink()
    assert machine.seen(pid).program.origin == "deleted"


def test_a_program_that_is_called_deleted_is_there(machine, sleeper):
    path = sleeper.rename(f"{sleeper} (deleted)")
    seen = machine.seen(machine.start(str(path))).program
    assert (seen.path, seen.origin) == (str(path), "file")


def test_a_program_in_memory_is_told(machine, sleeper):
    run = f"import os; fd = os.memfd_create('kworker'); os.write(fd, open({str(sleeper)!r}, 'rb').read()); "
    pid = machine.start(sys.executable, "-c", run + "os.execve(fd, ['[kworker]'], {})")
    seen = machine.seen(pid).program
    assert (seen.path, seen.origin) == ("/memfd:kworker", "memory")


def test_a_preloaded_library_is_told_and_what_is_no_path_is_not_repeated(machine, tmp_path):
    library = tmp_path / "hook.so"
    source = tmp_path / "hook.c"
    source.write_text("int hook;\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {**os.environ, "LD_PRELOAD": f"{library}:{CANARY}"}
    seen = machine.seen(machine.start(sys.executable, "-c", WAIT, environment=environment))
    assert seen.preload == (str(library), "…")


def test_a_process_whose_first_thread_ended_is_seen_through_another(machine, tmp_path):
    program = tmp_path / "headless"
    source = tmp_path / "headless.c"
    source.write_text(
        "#include <pthread.h>\n#include <unistd.h>\n"
        'static void *work(void *_) { sleep(1); write(1, "x\\n", 2); for (;;) pause(); }\n'
        "int main(void) { pthread_t t; pthread_create(&t, 0, work, 0); pthread_exit(0); }\n"
    )
    subprocess.run(["gcc", "-pthread", "-o", program, source], check=True)
    pid = machine.start(str(program))
    assert list(Path(f"/proc/{pid}/fd").iterdir()) == []
    seen = machine.seen(pid)
    assert [gpu.minor for gpu in seen.gpus] == [0]
    assert seen.program.path == str(program)


def test_a_process_that_is_hidden_by_a_mount_is_told(machine, tmp_path):
    pid = machine.start(sys.executable, "-c", WAIT)
    assert machine.look().hidden == ()
    machine.run("mount", "--bind", str(tmp_path), f"/proc/{pid}")
    try:
        seen = machine.look()
    finally:
        machine.run("umount", f"/proc/{pid}")
    assert seen.hidden == (pid,)
    assert pid not in {each.pid for each in seen.workloads}


def test_listening_ports_and_outgoing_connections_are_told(machine):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        run = (
            f"import socket; c = socket.create_connection(('127.0.0.1', {port})); "
            "s = socket.create_server(('0.0.0.0', 0)); " + WAIT
        )
        seen = machine.seen(machine.start(sys.executable, "-c", run))
    (mine,) = seen.ports
    assert (mine.address, mine.exposure) == ("0.0.0.0", Exposure.WILDCARD)
    assert [(each.port, each.exposure) for each in seen.remotes] == [(port, Exposure.LOOPBACK)]


def test_an_open_model_and_a_mapped_one_are_told(machine, tmp_path):
    (tmp_path / "open.safetensors").write_bytes(b"x" * 5000)
    (tmp_path / "mapped.gguf").write_bytes(b"x" * 5000)
    run = (
        f"import mmap; a = open({str(tmp_path / 'open.safetensors')!r}); f = open({str(tmp_path / 'mapped.gguf')!r}); "
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close(); "
    )
    seen = machine.seen(machine.start(sys.executable, "-c", run + WAIT))
    assert seen.models == (str(tmp_path / "mapped.gguf"), str(tmp_path / "open.safetensors"))


def test_a_miner_is_named_and_its_command_line_stays(machine):
    line = ["-o", f"stratum+tcp://pool.example:3333?pass={CANARY}", "--donate-level", "1"]
    seen = machine.seen(machine.start(sys.executable, "-c", WAIT, *line))
    assert seen.named == ("miner-flag", "stratum")
    assert CANARY not in repr(seen)


@pytest.fixture
def docker_group():
    """A control group called as Docker calls that of a container."""
    folders = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/pids")
    folder = next((Path(each) for each in folders if Path(each, "cgroup.procs").exists()), None)
    group = folder / f"docker-{'ab' * 32}.scope" if folder else None
    try:
        assert group is not None
        group.mkdir()
    except (AssertionError, OSError) as error:
        pytest.skip(f"no control group may be made: {error}")
    yield group
    os.rmdir(group)


def test_a_container_is_known_by_its_root_and_the_control_group_of_its_runtime(machine, sleeper, docker_group):
    static = sleeper.with_name("static")
    subprocess.run(["gcc", "-static", "-o", static, f"{sleeper}.c"], check=True)
    enter = f"mount -t tmpfs none /mnt; cp {static} /mnt/serve; mkdir /mnt/old; cd /mnt; pivot_root . old; exec /serve"
    pid = machine.start("sh", "-c", f"echo $$ > {docker_group}/cgroup.procs; exec unshare -m sh -c '{enter}'")
    try:
        seen = machine.seen(pid)
    finally:
        machine.close()
    assert seen.container is not None
    assert (seen.container.kind, seen.container.short) == ("docker", "abababababab")
    assert (seen.program.path, seen.program.origin) == ("/serve", "file")
