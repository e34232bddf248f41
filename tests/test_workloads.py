"""GPU work in trees of /proc: whose it is, where it belongs, what it is made of; and what cannot be seen."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.facts.gpu_holders import parse_stat
from agent.facts.gpu_nodes import is_use, parse_mig_minors
from agent.facts.ports import Exposure
from agent.facts.told_by_process import OTHER, parse_environment, parse_preload, parse_words
from agent.facts.workload import Container, GpuPart, HeldGpu, Job, OpenPort
from agent.facts.workload_details import named
from agent.facts.workload_jobs import parse_jobs
from agent.facts.workloads import Workloads, workloads
from tests.fakes.gpu_processes import HOST_ROOT, INIT, MACHINE, UUID, mapping, process
from tests.fakes.sockets import row, table
from tests.fakes.trees import plant

POD = "0c1d2e3f-1111-2222-3333-444455556666"
TORCH = "/home/ada/venv/lib/python3.11/site-packages/torch/lib/libtorch_cuda.so"
USERS = "/sys/module/nvidia_uvm/refcnt"
CUDA = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05"


def look(tmp_path, *parts) -> Workloads:
    files = {**MACHINE, **INIT}
    for part in parts:
        files.update(part)
    seen: Workloads = workloads(plant(tmp_path, files), Config())
    return seen


def one(tmp_path, *open_files, **how):
    (workload,) = look(tmp_path, process(700, *(open_files or ("/dev/nvidia0",)), **how)).workloads
    return workload


def test_a_machine_without_the_driver_is_not_looked_at(tmp_path):
    # No /proc at all, which would be an error if anybody looked.
    assert workloads(plant(tmp_path, {"/etc/passwd": ""}), Config()) == Workloads()


def test_a_glance_tells_when_a_cuda_program_comes_or_goes(tmp_path):
    assert workloads.glance
    seen = [workloads.glance(plant(tmp_path, files), Config()) for files in ({}, {USERS: "0\n"}, {USERS: "3\n"})]
    assert len(set(seen)) == 3


def test_programs_that_use_no_gpu_are_no_workloads(tmp_path):
    reader = process(700, "/dev/null", "socket:[41]", "/dev/nvidiactl", "/home/ada/model.safetensors")
    assert look(tmp_path, reader) == Workloads()


def test_a_training_job_of_a_user_is_known(tmp_path):
    seen = one(
        tmp_path, "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia0",
        command=("python", "-u", "train.py", "--password=hunter2"), mapped=(TORCH, CUDA),
        environment={"VIRTUAL_ENV": "/home/ada/venv", "WANDB_API_KEY": "hunter2", "CUDA_VISIBLE_DEVICES": "0,1"},
    )  # fmt: skip
    assert (seen.key, seen.user, seen.login_user, seen.session) == ((700, 9000), "ada", "ada", 3)
    assert seen.unit == "session-3.scope"
    assert seen.gpus == (HeldGpu(minor=0, address="0000:00:04.0", uuid=UUID),)
    assert (seen.program.path, seen.program.script) == ("/usr/bin/python3.11", "/home/ada/work/train.py")
    assert seen.environments == ("/home/ada/venv/lib/python3.11/site-packages",)
    assert (seen.frameworks, seen.libraries) == (("torch",), ("cuda",))
    assert (seen.prefix, seen.visible) == ("/home/ada/venv", "0,1")
    assert "hunter2" not in repr(seen)


@pytest.mark.parametrize(
    ("mapped", "command", "known"),
    [
        (("/opt/x/site-packages/tensorflow/libtensorflow_framework.so.2",), (), "tensorflow"),
        (("/opt/x/site-packages/jax_plugins/xla_cuda12/xla_cuda_plugin.so",), (), "jax"),
        (("/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.3.0",), (), "tensorrt"),
        (("/opt/x/site-packages/triton/_C/libtriton.so",), (), "triton"),
        (("/opt/x/site-packages/vllm/_C.abi3.so",), (), "vllm"),
        ((), ("python", "-m", "sglang.launch_server", "--api-key", "x"), "sglang"),
        ((), ("python", "-m", "ipykernel_launcher", "-f", "/x/kernel-ab.json"), "ipykernel"),
        ((), ("python", "/opt/venv/bin/vllm", "serve"), "vllm"),
    ],
)
def test_frameworks_are_known_by_the_files_mapped_or_by_what_a_python_runs(tmp_path, mapped, command, known):
    assert known in one(tmp_path, mapped=mapped, command=command or ("python",)).frameworks


@pytest.mark.parametrize(
    ("executable", "known"),
    [
        ("/usr/local/bin/ollama", "ollama"),
        ("/srv/llama.cpp/build/bin/llama-server", "llama.cpp"),
        ("/opt/tritonserver/bin/tritonserver", "triton-server"),
        ("/usr/bin/nvidia-smi", "nvidia-tools"),
        ("/usr/local/gromacs/bin/gmx", "gromacs"),
    ],
)
def test_programs_that_are_no_python_are_known_by_their_name(tmp_path, executable, known):
    assert one(tmp_path, executable=executable).frameworks == (known,)


def test_a_library_that_is_only_read_is_no_framework(tmp_path):
    assert one(tmp_path, mapped=(mapping(TORCH, permissions="r--p"),)).frameworks == ()


def test_a_notebook_is_known_by_its_kernel_and_its_name(tmp_path):
    seen = one(
        tmp_path,
        command=("python", "-m", "ipykernel_launcher", "-f", "/home/ada/.local/share/jupyter/runtime/kernel-1b2c.json"),
        environment={"JPY_SESSION_NAME": "/home/ada/fine tuning.ipynb"},
    )
    assert (seen.kernel, seen.notebook, seen.program.module) == (
        "1b2c",
        "/home/ada/fine tuning.ipynb",
        "ipykernel_launcher",
    )


def test_a_part_of_a_gpu_is_known_without_asking_the_driver(tmp_path):
    minors = "config 1\nmonitor 2\ngpu0/gi7/access 66\ngpu0/gi7/ci0/access 67\ngpu1/gi7/access 201\n"
    capabilities = ("/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67")
    holder = process(700, "/dev/nvidia0", *capabilities)
    (seen,) = look(tmp_path, {"/proc/driver/nvidia-caps/mig-minors": minors}, holder).workloads
    assert seen.gpus[0].parts == (GpuPart(gpu_instance=7), GpuPart(gpu_instance=7, compute_instance=0))


def test_the_server_of_mps_is_told(tmp_path):
    assert one(tmp_path, executable="/usr/bin/nvidia-cuda-mps-server", command=()).mps == "server"


def test_a_container_is_known_by_its_runtime_and_id(tmp_path):
    name = "cd" * 32
    other = "22 1 0:55 / / rw - overlay overlay rw\n"
    seen = one(tmp_path, groups=f"0::/system.slice/docker-{name}.scope\n", mountinfo=other)
    assert seen.container == Container(kind="docker", id=name)
    assert seen.container.short == name[:12]


def test_a_job_is_known_by_its_control_group_before_what_the_environment_claims(tmp_path):
    groups = "0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_0\n"
    seen = one(tmp_path, groups=groups, environment={"SLURM_JOB_ID": "7", "RAY_JOB_ID": "01000000"})
    assert seen.jobs == (Job(kind="slurm", id="42", step="0"), Job(kind="ray", id="01000000", claimed=True))


@pytest.mark.parametrize(
    "groups",
    [
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-x.scope",
        f"4:memory:/kubepods/burstable/pod{POD}/0123",
        f"0::/kubepods/pod{POD}",
    ],
)
def test_a_pod_is_known_by_its_uid(groups):
    assert parse_jobs(groups) == (Job(kind="kubernetes", id=POD),)


def test_ports_and_connections_are_those_of_the_process(tmp_path):
    tables = {
        "/proc/700/net/tcp": table(
            [row("0.0.0.0", 8888, inode=41), row("10.0.0.2", 40000, inode=42, state="01"), row("0.0.0.0", 22, inode=43)]
        )
    }
    holder = process(700, "/dev/nvidia0", "socket:[41]", "socket:[42]")
    (seen,) = look(tmp_path, holder, tables).workloads
    assert seen.ports == (OpenPort(port=8888, address="0.0.0.0", exposure=Exposure.WILDCARD),)
    assert seen.ports[0].name == "tcp/8888"
    assert [each.port for each in seen.remotes] == [0]


def test_models_are_known_by_their_place_or_their_name(tmp_path):
    blob = "/home/ada/.cache/huggingface/hub/models--a--b/blobs/0f1e"
    seen = one(tmp_path, "/dev/nvidia0", blob, "/data/llama.gguf", "/data/notes.txt", "/usr/share/x/table.bin")
    assert seen.models == ("/data/llama.gguf", blob)


def test_a_process_that_ended_is_none_and_waits(tmp_path):
    seen = look(tmp_path, process(700, state="Z"))
    assert (seen.workloads, seen.ending) == ((), (700,))


def test_a_mount_over_a_process_hides_it(tmp_path):
    mounts = HOST_ROOT + "90 22 0:40 / /proc/700 rw - tmpfs none rw\n91 22 0:40 / /proc/9 rw - tmpfs x rw\n"
    assert look(tmp_path, {"/proc/self/mountinfo": mounts, "/proc/700/": ""}).hidden == (700,)


def test_what_every_program_is_made_to_load_is_told(tmp_path):
    assert look(tmp_path, {"/etc/ld.so.preload": "/usr/local/lib/hide.so\n"}).preload == ("/usr/local/lib/hide.so",)


def test_where_processes_are_kept_from_us_nothing_is_complete(tmp_path):
    host = plant(tmp_path, {**MACHINE, **process(700, "/dev/nvidia0")})
    seen = workloads(host, Config())
    assert (len(seen.workloads), seen.complete) == (1, False), "without process 1, others are kept from us too"
    assert seen.gaps


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_process_that_may_not_be_looked_into_is_a_gap(tmp_path):
    host = plant(tmp_path, {**MACHINE, **INIT, **process(700, "/dev/nvidia0")})
    os.chmod(tmp_path / "proc/700/fd", 0)
    seen = workloads(host, Config())
    os.chmod(tmp_path / "proc/700/fd", 0o700)
    assert (seen.workloads, seen.complete, len(seen.gaps)) == ((), False, 1)


def test_a_workload_of_which_nothing_but_its_files_can_be_seen_is_there_with_a_gap(tmp_path):
    host = plant(tmp_path, {**MACHINE, **INIT, **process(700, "/dev/nvidia0")})
    (tmp_path / "proc/700/environ").unlink()
    (tmp_path / "proc/700/environ").mkdir()
    seen = workloads(host, Config())
    assert [each.pid for each in seen.workloads] == [700]
    assert seen.workloads[0].program.origin == "unknown"
    assert (seen.complete, len(seen.gaps)) == (False, 1)


def test_a_process_that_runs_on_without_what_every_process_has_is_a_gap(tmp_path):
    host = plant(tmp_path, {**MACHINE, **INIT, **process(700, "/dev/nvidia0")})
    (tmp_path / "proc/700/maps").unlink()
    seen = workloads(host, Config())
    assert (seen.workloads, seen.complete, len(seen.gaps)) == ((), False, 1)


@pytest.mark.parametrize(
    ("target", "used"),
    [
        ("/dev/nvidia0", True), ("/dev/nvidia15", True), ("/dev/nvidia-uvm", True), ("/dev/nvidia0 (deleted)", True),
        ("/dev/nvidia-caps/nvidia-cap66", True), ("/dev/nvidiactl", False), ("/dev/nvidia-modeset", False),
        ("/dev/nvidia", False), ("/home/ada/dev/nvidia0", False), ("/dev/nvidia0/x", False),
    ],
)  # fmt: skip
def test_open_files_that_use_a_gpu(target, used):
    assert is_use(target) is used


def test_of_an_environment_only_what_looks_as_it_should_is_kept():
    content = b"\0".join(
        [b"CONDA_PREFIX=relative", b"SLURM_JOB_ID=$(secret)", b"JPY_SESSION_NAME=hunter2", b"LD_PRELOAD=hunter2 ./x",
         b"CUDA_VISIBLE_DEVICES=hunter2;", b"HF_TOKEN=hunter2", b"VIRTUAL_ENV", b"=x", b""]
    )  # fmt: skip
    seen = parse_environment(content)
    assert seen.preload == (OTHER,)
    assert "hunter2" not in repr(seen)
    assert (seen.prefix, seen.jobs, seen.visible) == ("", (), "")


def test_the_first_of_two_variables_counts():
    assert parse_environment(b"CONDA_PREFIX=/a\0CONDA_PREFIX=/b\0").prefix == "/a"


@given(st.binary(max_size=300))
def test_environments_of_any_bytes_are_read_and_printable(content):
    seen = parse_environment(b"LD_PRELOAD=/" + content + b"\0VIRTUAL_ENV=/" + content)
    assert all(each.isprintable() for each in (seen.prefix, *seen.preload))


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=40), min_size=1, max_size=6))
def test_of_command_lines_only_scripts_modules_and_kernels_are_kept(words):
    seen = parse_words(words, "/home/ada")
    assert not seen.script or seen.script.startswith("/")
    assert all(each.isprintable() for each in (seen.script, seen.module, seen.kernel))


@given(st.text(st.characters(exclude_characters="\0"), max_size=60))
def test_libraries_to_preload_are_paths_names_or_nothing_that_is_repeated(text):
    for each in parse_preload(text):
        assert each == OTHER or each.startswith("/") or ".so" in each


@given(st.text(max_size=60), st.text(max_size=200))
def test_names_with_parentheses_do_not_shift_what_a_process_tells(comm, junk):
    parse_stat(junk)
    line = f"7 ({comm}) R 3 {'0 ' * 15}2 0 4711 " + "0 " * 30
    seen = parse_stat(line)
    assert seen is not None
    assert (seen.state, seen.parent, seen.threads, seen.started) == ("R", 3, 2, 4711)


@given(st.text(max_size=200))
def test_control_groups_and_capabilities_of_any_text_are_read(text):
    parse_jobs(text)
    parse_mig_minors(text)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --dataset t-rex --output pool.bin",
        "vllm serve model --algo ring --port 3333",
        "python -m torch.distributed.run --cpu-affinity 1 --nproc 8 x.py",
        "hashcat -m 1000 -a 0 hashes.txt words.txt",
        "gmx mdrun -deffnm md -nb gpu",
    ],
)
def test_ordinary_command_lines_are_not_named(line):
    words = line.split()
    assert named(words[0], f"/usr/bin/{words[0]}", words) == ()


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        ("/tmp/x -o stratum+ssl://pool.example:443 -u 0xabc", "stratum"),
        ("/tmp/x --algo kawpow --server pool.example:1", "miner-flag"),
        ("/tmp/x -a rx/0", "miner-flag"),
        ("./t-rex -c config", "miner-name"),
        ("/opt/XMRig", "miner-name"),
    ],
)
def test_miners_are_named(line, mark):
    words = line.split()
    assert mark in named("x", "/usr/bin/x", words)
