"""Which installed software is in use, as the processes of a machine tell it."""

from __future__ import annotations

import pytest

from agent.config import Config
from agent.facts.use import EnvironmentUse, SoftwareUse, Use, software_use
from agent.model import AbsentError
from tests.fakes.processes import BOOT, MACHINE, distribution, mapping, process
from tests.fakes.trees import plant

CONDA = "/opt/conda/lib/python3.10/site-packages"
VENV = "/home/ada/venv/lib/python3.11/site-packages"
SYSTEM = "/usr/lib/python3/dist-packages"
TORCH = distribution(CONDA, "torch", "torch/__init__.py", "torch/lib/libtorch.so")


def look(tmp_path, *parts, earlier=None) -> SoftwareUse:
    files = dict(MACHINE)
    for part in parts:
        files.update(part)
    seen: SoftwareUse = software_use(plant(tmp_path, files), Config(), earlier)
    return seen


def test_a_machine_on_which_nothing_of_ours_runs_has_nothing_in_use_and_everything_idle(tmp_path):
    seen = look(tmp_path, TORCH)
    assert seen == SoftwareUse(boot=BOOT, complete=True)
    assert seen.of(CONDA, "torch") is Use.IDLE


def test_a_mapped_file_makes_its_distribution_loaded_and_its_environment_used(tmp_path):
    seen = look(tmp_path, TORCH, process(7, f"{CONDA}/torch/lib/libtorch.so"))
    assert seen.environments == (EnvironmentUse(path=CONDA, loaded=("torch",)),)
    assert (seen.of(CONDA, "torch"), seen.of(CONDA, "flask"), seen.of(VENV, "torch")) == (
        Use.LOADED, Use.ENVIRONMENT, Use.IDLE,
    )  # fmt: skip


@pytest.mark.parametrize("device", ["/dev/nvidia0", "/dev/nvidia12", "/dev/nvidia-uvm"])
def test_a_process_that_holds_a_gpu_makes_what_it_has_mapped_used_by_it(tmp_path, device):
    library = f"{CONDA}/torch/lib/libtorch.so"
    mapped = look(tmp_path / "mapped", TORCH, process(7, library, mapping(device, permissions="rw-s")))
    opened = look(tmp_path / "opened", TORCH, process(7, library, descriptors=[device]))
    assert mapped.of(CONDA, "torch") is opened.of(CONDA, "torch") is Use.GPU


@pytest.mark.parametrize("device", ["/dev/nvidiactl", "/dev/nvidia-modeset", "/tmp/dev/nvidia0"])
def test_what_is_not_a_gpu_makes_nothing_used_by_one(tmp_path, device):
    seen = look(tmp_path, TORCH, process(7, f"{CONDA}/torch/lib/libtorch.so", descriptors=[device]))
    assert seen.of(CONDA, "torch") is Use.LOADED


def test_a_gpu_held_by_another_process_makes_nothing_used_by_it(tmp_path):
    other = process(8, descriptors=["/dev/nvidia0"], executable="/usr/bin/nv-hostengine")
    assert look(tmp_path, TORCH, process(7, f"{CONDA}/torch/lib/libtorch.so"), other).of(CONDA, "torch") is Use.LOADED


def test_an_interpreter_that_maps_nothing_uses_its_environment(tmp_path):
    seen = look(tmp_path, TORCH, process(7, executable="/opt/conda/bin/python3.10", command=["python", "train.py"]))
    assert seen.environments == (EnvironmentUse(path=CONDA),)


def test_a_notebook_kernel_is_known_by_the_module_that_it_runs(tmp_path):
    kernel = ["/opt/conda/bin/python", "-m", "ipykernel_launcher", "-f", "/run/user/1000/kernel-4711.json"]
    installed = distribution(CONDA, "ipykernel", "ipykernel/__init__.py", "ipykernel_launcher.py")
    seen = look(tmp_path, TORCH, installed, process(7, executable="/opt/conda/bin/python3.10", command=kernel))
    assert seen.environments == (EnvironmentUse(path=CONDA, loaded=("ipykernel",)),)


@pytest.mark.parametrize("python", ["/home/ada/venv/bin/python", "../venv/bin/python3"])
def test_a_virtual_environment_is_known_by_how_its_python_was_called(tmp_path, python):
    jupyter = distribution(VENV, "jupyterlab", "jupyterlab/__init__.py", "../../../bin/jupyter-lab")
    system = distribution(SYSTEM, "PyYAML", "yaml/__init__.py")
    command = [python, "/home/ada/venv/bin/jupyter-lab", "--ServerApp.token=canary"]
    seen = look(tmp_path, jupyter, system, process(7, executable="/usr/bin/python3.11", command=command))
    assert seen.environments == (EnvironmentUse(path=VENV, loaded=("jupyterlab",)),)
    assert "canary" not in repr(seen)


def test_a_virtual_environment_that_shares_uses_the_python_that_it_was_made_from_too(tmp_path):
    shares = {"/home/ada/venv/pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = true\n", f"{VENV}/x.py": ""}
    system = distribution(SYSTEM, "PyYAML", "yaml/__init__.py")
    command = ["/home/ada/venv/bin/python"]
    seen = look(tmp_path, shares, system, process(7, executable="/usr/bin/python3.11", command=command))
    assert [each.path for each in seen.environments] == [VENV, SYSTEM]


def test_a_linked_environment_is_the_one_that_the_link_leads_to(tmp_path):
    link = {"/home/bob/venv": "-> ../ada/venv", f"{VENV}/x.py": ""}
    command = ["/home/bob/venv/bin/python"]
    seen = look(tmp_path, link, process(7, executable="/usr/bin/python3.11", command=command))
    assert [each.path for each in seen.environments] == [VENV]


def test_a_script_of_a_user_is_known_by_where_it_lies(tmp_path):
    site = "/home/ada/.local/lib/python3.11/site-packages"
    tool = distribution(
        site, "mlflow", top_level="mlflow\n", entry_points="[console_scripts]\nmlflow = mlflow.cli:cli\n"
    )
    command = ["/usr/bin/python3", "/home/ada/.local/bin/mlflow", "ui"]
    seen = look(tmp_path, tool, process(7, executable="/usr/bin/python3.11", command=command))
    assert EnvironmentUse(path=site, loaded=("mlflow",)) in seen.environments


def test_the_systems_python_uses_the_systems_packages_and_not_those_of_other_releases(tmp_path):
    paths = [SYSTEM, "/usr/local/lib/python3.11/dist-packages", "/usr/local/lib/python3.9/dist-packages"]
    installed = {f"{path}/x.py": "" for path in paths}
    command = ["/usr/bin/python3", "/usr/bin/networkd-dispatcher"]
    seen = look(tmp_path, installed, process(7, executable="/usr/bin/python3.11", command=command))
    assert [each.path for each in seen.environments] == sorted(paths[:2])


def test_a_program_that_is_no_python_counts_where_it_was_installed_beside_one(tmp_path):
    ruff = distribution(VENV, "ruff", "ruff/__init__.py", "../../../bin/ruff")
    system = distribution(SYSTEM, "PyYAML", "yaml/__init__.py")
    seen = look(tmp_path, ruff, system, process(7, executable="/home/ada/venv/bin/ruff"), process(8))
    assert seen.environments == (EnvironmentUse(path=VENV, loaded=("ruff",)),)


@pytest.mark.parametrize(
    "command",
    [
        ["gunicorn: master [app:app] token=canary"],
        ["/opt/conda/bin/python", "-c", "import canary"],
        ["/opt/conda/bin/python", "-m", "canary.server"],
        ["/opt/conda/bin/python", "/opt/conda/bin/canary"],
        ["/opt/conda/bin/python", "canary", "\udcff"],
        ["", ""],
        ["/opt/conda/bin/python" + "/canary" * 1000],
    ],
)
def test_nothing_of_a_command_line_is_kept_that_is_not_the_name_of_something_installed(tmp_path, command):
    files = process(7, executable="/opt/conda/bin/python3.10")
    files["/proc/7/cmdline"] = "\0".join(command).encode("utf-8", "surrogateescape")
    seen = look(tmp_path, TORCH, files)
    assert seen.environments == (EnvironmentUse(path=CONDA),)
    assert "canary" not in repr(seen)


def test_containers_and_whatever_else_has_its_own_root_is_left_out(tmp_path):
    other = {"/var/lib/box/etc/hostname": "box\n"}
    seen = look(tmp_path, TORCH, other, process(7, f"{CONDA}/torch/lib/libtorch.so", root="../../var/lib/box"))
    assert seen == SoftwareUse(boot=BOOT, complete=True)


def test_kernel_threads_zombies_and_processes_that_end_are_passed_over(tmp_path):
    thread = {"/proc/2/comm": "kthreadd\n", "/proc/2/maps": "", "/proc/2/root": "-> ../.."}
    ended = process(7, f"{CONDA}/torch/lib/libtorch.so")
    del ended["/proc/7/maps"]
    assert look(tmp_path, TORCH, thread, ended, {"/proc/8/": ""}) == SoftwareUse(boot=BOOT, complete=True)


def test_what_was_seen_in_use_stays_so_until_the_next_boot(tmp_path):
    earlier = SoftwareUse(boot=BOOT, complete=True, environments=(EnvironmentUse(path=CONDA, loaded=("torch",)),))
    assert look(tmp_path / "same", TORCH, earlier=earlier).of(CONDA, "torch") is Use.LOADED
    again = look(tmp_path / "more", TORCH, process(7, f"{CONDA}/x/y.so"), earlier=earlier)
    assert again.environments == earlier.environments
    other = SoftwareUse(boot="another", complete=True, environments=earlier.environments)
    assert look(tmp_path / "other", TORCH, earlier=other).of(CONDA, "torch") is Use.IDLE


def test_an_environment_that_was_removed_is_forgotten(tmp_path):
    earlier = SoftwareUse(boot=BOOT, complete=True, environments=(EnvironmentUse(path=VENV, loaded=("torch",)),))
    gone = process(7, mapping(f"{CONDA}/torch/lib/libtorch.so (deleted)"))
    assert look(tmp_path, gone, earlier=earlier).environments == ()


def test_without_process_1_in_sight_nothing_is_known_to_be_idle(tmp_path):
    files = {path: content for path, content in MACHINE.items() if not path.startswith("/proc/1/")}
    seen = software_use(plant(tmp_path, files), Config(), None)
    assert seen.of(CONDA, "torch") is None
    assert [gap.reason for gap in seen.gaps] == ["what some processes run could not be looked at"]


def test_a_machine_that_does_not_tell_its_boot_cannot_be_looked_at(tmp_path):
    with pytest.raises(AbsentError, match="boot_id"):
        software_use(plant(tmp_path, {"/proc/1/comm": "init\n"}), Config(), None)


def test_a_remote_file_system_is_not_touched(tmp_path):
    path = "/mnt/bucket/env/lib/python3.11/site-packages"
    installed = distribution(path, "torch", "torch/__init__.py")
    link = {"/home/ada/venv": "-> /mnt/bucket/env"}
    mapped = process(7, f"{path}/torch/_C.so", mapping(f"{path}/torch/_D.so (deleted)"))
    started = process(8, executable="/usr/bin/python3.11", command=["/home/ada/venv/bin/python"])
    assert look(tmp_path, installed, link, mapped, started) == SoftwareUse(boot=BOOT, complete=True)


def test_names_that_would_break_a_line_are_shown_and_stay_apart(tmp_path):
    path = "/home/a\nda/lib/python3.11/site-packages"
    evil = distribution(path, "torch", "torch/_C.so")
    maps = mapping(f"{path.replace(chr(10), chr(92) + '012')}/torch/_C.so")
    seen = look(tmp_path, evil, process(7, maps))
    assert seen.environments == (
        EnvironmentUse(path="/home/a\\u000ada/lib/python3.11/site-packages", loaded=("torch",)),
    )
    again = software_use(plant(tmp_path, {}), Config(), seen)
    assert again == seen


def test_a_hundred_thousand_mappings_are_looked_at_and_more_than_the_limit_is_said(tmp_path):
    noise = [mapping(f"/opt/data/{number}", inode=number + 1) for number in range(100_000)]
    seen = look(tmp_path / "long", TORCH, process(7, *noise, f"{CONDA}/torch/lib/libtorch.so"))
    assert (seen.of(CONDA, "torch"), seen.complete) == (Use.LOADED, True)
    many = [mapping(f"{CONDA}/torch/{number}.so", inode=number + 1) for number in range(10_001)]
    seen = look(tmp_path / "many", TORCH, process(7, *many))
    assert (seen.of(CONDA, "torch"), seen.complete) == (Use.LOADED, False)
    assert [gap.reason for gap in seen.gaps] == ["some processes have more files mapped than were looked at"]
    assert look(tmp_path / "huge", TORCH, process(7, *noise, *noise)).complete is False
