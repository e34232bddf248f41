"""What still runs files that were replaced or removed on the disk: what is seen of it, and what is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import msgspec
import pytest

from agent.checks.use import replaced_file_in_memory
from agent.config import Config
from agent.facts.ports import Exposure, Listener, Listeners
from agent.facts.use import SoftwareUse, StaleProgram, Use, software_use
from agent.host import Host
from agent.model import Severity, Unknown
from tests.fakes.processes import BOOT, MACHINE, mapping, process
from tests.fakes.trees import plant

LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
SITE = "/home/ada/venv/lib/python3.11/site-packages"
SSH = "0::/system.slice/ssh.service\n"


def look(tmp_path, *parts) -> SoftwareUse:
    files: dict[str, str | bytes] = {**MACHINE, "/etc/passwd": ""}
    for part in parts:
        files.update(part)
    seen: SoftwareUse = software_use(plant(tmp_path, files), Config(), None)
    return seen


def stale(tmp_path, *parts):
    return [(each.kind, each.name, each.files) for each in look(tmp_path, *parts).stale]


def gone(path, permissions="r-xp"):
    return mapping(f"{path} (deleted)", permissions=permissions)


def test_libraries_that_are_those_on_the_disk_are_quiet(tmp_path):
    assert stale(tmp_path, {LIBC: ""}, process(7, LIBC, cgroup=SSH)) == []


def test_a_service_whose_library_was_replaced_is_known_by_its_unit(tmp_path):
    workers = [process(pid, gone(LIBC), cgroup=SSH, comm=f"sshd-{pid}") for pid in (7, 8)]
    assert stale(tmp_path, {LIBC: "newer"}, *workers) == [("service", "ssh.service", (LIBC,))]


def test_a_library_that_was_removed_counts_as_one_that_was_replaced(tmp_path):
    assert stale(tmp_path, process(7, gone("/usr/lib/libssl.so.1.1"), cgroup=SSH))


def test_programs_of_sessions_are_known_by_name_and_user_and_process_1_for_itself(tmp_path):
    user_service = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/notebook.service\n"
    parts = (
        process(1, gone(LIBC), comm="systemd", cgroup="0::/init.scope\n"),
        process(7, gone(LIBC), comm="jupyter\nlab"),
        process(8, gone(LIBC), comm="tmux", cgroup=user_service),
    )
    seen = look(tmp_path, *parts)
    assert [(each.kind, each.name) for each in seen.stale] == [
        ("init", "systemd"), ("program", "jupyter\\u000alab"), ("program", "tmux"),
    ]  # fmt: skip
    assert all(each.user for each in seen.stale if each.kind == "program")


@pytest.mark.parametrize(
    "line",
    [
        gone(LIBC, permissions="r--p"),
        gone("/memfd:ffi"),
        gone("/dev/shm/x86_64"),
        gone("/dev/zero"),
        gone("/SYSV00000000"),
        gone("/i915"),
        gone("/[aio]"),
        gone("/tmp/torchinductor_ada/xy/kernel.so"),
        gone("/var/tmp/jna4711.tmp"),
        gone("/run/user/1000/orcexec.x"),
        gone("/home/ada/.triton/cache/x/launcher.so"),
        gone("/home/ada/build/a.out"),
        gone("/opt/dlvmguard/versions/1.0/lib/python3.11/site-packages/msgspec/_core.so"),
        "7f1b2c000000-7f1b2c021000 r-xp 00000000 00:00 0   /usr/lib/libc.so.6 (deleted)\n",
        "garbage (deleted)\n",
    ],
)
def test_what_programs_delete_by_design_and_what_is_no_code_of_the_system_is_quiet(tmp_path, line):
    assert stale(tmp_path, process(7, line)) == []


def test_a_file_that_is_still_there_is_quiet_whatever_the_kernel_calls_it(tmp_path):
    host = plant(tmp_path, {LIBC: "", "/usr/lib/odd (deleted)": ""})
    lines = [
        mapping(f"{path} (deleted)", inode=host.stat(name).st_ino)
        for path, name in ((LIBC, LIBC), ("/usr/lib/odd", "/usr/lib/odd (deleted)"))
    ]
    assert stale(tmp_path, process(7, *lines)) == []


def test_libraries_of_an_environment_count_wherever_it_lies(tmp_path):
    conda = "/home/ada/miniconda3"
    parts = (
        {f"{conda}/lib/python3.10/site-packages/x.py": ""},
        process(7, gone(f"{conda}/lib/libssl.so.3"), executable=f"{conda}/bin/python3.10 (deleted)"),
    )
    assert stale(tmp_path, *parts) == [("program", "python3", (f"{conda}/lib/libssl.so.3",))]


def test_a_package_that_pip_replaced_is_told_by_its_own_name(tmp_path):
    installed = {f"{SITE}/torch/_C.so": "newer", f"{SITE}/torch-2.0.dist-info/METADATA": "", f"{SITE}/numpy/x.so": ""}
    seen = look(tmp_path, installed, process(7, gone(f"{SITE}/~orch/_C.so")))
    assert [each.files for each in seen.stale] == [(f"{SITE}/torch/_C.so",)]
    assert seen.of(SITE, "torch") is Use.LOADED
    assert stale(tmp_path / "none", {f"{SITE}/x.py": ""}, process(7, gone(f"{SITE}/~orch/_C.so")))


def test_a_module_that_pip_moved_away_and_replaced_is_told_by_its_own_name(tmp_path):
    moved = gone("/tmp/pip-uninstall-x1/_cffi_backend.so")
    running = process(7, moved, executable="/usr/bin/python3.11", command=["/home/ada/venv/bin/python"])
    installed = {f"{SITE}/_cffi_backend.so": "newer"}
    assert stale(tmp_path / "replaced", installed, running) == [("program", "python3", (f"{SITE}/_cffi_backend.so",))]
    assert stale(tmp_path / "removed", {f"{SITE}/x.py": ""}, running) == []


def test_files_of_a_container_are_not_compared_with_ours(tmp_path):
    box = {"/box/etc/hostname": "", LIBC: ""}
    assert stale(tmp_path, box, process(7, gone(LIBC), root="../../box")) == []


def test_of_very_many_files_and_programs_the_first_are_told_and_all_are_counted(tmp_path):
    (program,) = look(tmp_path / "files", process(7, *(gone(f"/usr/lib/{n}.so") for n in range(150)))).stale
    assert (len(program.files), program.count) == (100, 150)
    crowd = [process(100 + n, gone(LIBC), comm=f"p{n}") for n in range(201)]
    seen = look(tmp_path / "programs", *crowd)
    assert (len(seen.stale), seen.complete) == (200, False)


def a_use(*programs: StaleProgram) -> SoftwareUse:
    return SoftwareUse(boot=BOOT, complete=True, stale=programs)


def a_service(name, *files):
    return StaleProgram(name=name, kind="service", files=files or (LIBC,), count=len(files) or 1)


def a_listener(unit="", process="", user="root", exposure=Exposure.WILDCARD):
    return Listener(
        protocol="tcp", address="0.0.0.0", port=22, exposure=exposure, dynamic=False,
        uid=0, user=user, unit=unit, process=process,
    )  # fmt: skip


NOBODY = Listeners(listeners=())
SHELL = StaleProgram(name="jupyter-lab", kind="program", user="ada", files=(LIBC,), count=1)


def test_a_machine_without_stale_programs_passes():
    assert list(replaced_file_in_memory(a_use(), NOBODY)) == []


def test_forty_services_after_one_update_are_one_finding_with_a_command_for_each():
    services = [a_service(f"s{number:02}.service", LIBC, LIBC.replace("libc", "libm")) for number in range(40)]
    (finding,) = replaced_file_in_memory(a_use(*services), NOBODY)
    assert (finding.subject, finding.severity) == ("services", Severity.LOW)
    assert finding.detail == "40 services still run what was replaced on the disk: libc.so.6, libm.so.6"
    assert [(each.place, each.fix) for each in finding.instances][:2] == [
        ("s00.service", "sudo systemctl restart s00.service"), ("s01.service", "sudo systemctl restart s01.service"),
    ]  # fmt: skip


def test_one_service_alone_is_fixed_by_its_own_command():
    (finding,) = replaced_file_in_memory(a_use(a_service("ssh.service")), NOBODY)
    assert finding.fix == "sudo systemctl restart ssh.service"
    assert finding.detail.startswith("1 service still runs")


def test_process_1_and_the_message_bus_are_not_restarted_like_others():
    init = StaleProgram(name="systemd", kind="init", files=(LIBC,), count=1)
    (finding,) = replaced_file_in_memory(a_use(init, a_service("dbus.service")), NOBODY)
    assert {each.place: each.fix for each in finding.instances} == {
        "dbus.service": "Reboot when no job runs: sudo systemctl reboot", "systemd": "sudo systemctl daemon-reexec",
    }  # fmt: skip


def test_programs_of_sessions_are_a_finding_of_their_own():
    findings = list(replaced_file_in_memory(a_use(SHELL, a_service("ssh.service")), NOBODY))
    assert [each.subject for each in findings] == ["services", "sessions"]
    (instance,) = findings[1].instances
    assert (instance.place, "ada" in instance.fix) == ("ada:jupyter-lab", True)


def test_what_listens_beyond_the_machine_makes_it_worse():
    seen = Listeners(listeners=(a_listener(unit="ssh.service"),))
    (finding,) = replaced_file_in_memory(a_use(a_service("cron.service"), a_service("ssh.service")), seen)
    assert (finding.severity, finding.evidence["exposed"]) == (Severity.MEDIUM, "ssh.service")
    notebook = Listeners(listeners=(a_listener(process="jupyter-lab", user="ada"),))
    (finding,) = replaced_file_in_memory(a_use(SHELL), notebook)
    assert finding.severity is Severity.MEDIUM


@pytest.mark.parametrize(
    "listeners",
    [
        Unknown(reason="not looked at"),
        Listeners(listeners=(a_listener(unit="ssh.service", exposure=Exposure.LOOPBACK), a_listener(unit="x.service"))),
    ],
)
def test_what_listens_to_the_machine_alone_or_is_not_known_to_listen_makes_it_no_worse(listeners):
    (finding,) = replaced_file_in_memory(a_use(a_service("ssh.service")), listeners)
    assert finding.severity is Severity.LOW


LOAD = "import sys; {}; print('ready', flush=True); sys.stdin.read()"


class Running:
    """A real process that has loaded something and waits."""

    def __init__(self, python, statement):
        self.process = subprocess.Popen(
            [python, "-I", "-c", LOAD.format(statement)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_error):
        self.process.communicate()


def on_this_machine() -> SoftwareUse:
    seen: SoftwareUse = software_use(Host(), Config(), None)
    return seen


def environment(tmp_path) -> tuple[str, Path]:
    """A real virtual environment with a real package that is partly compiled."""
    venv.create(tmp_path / "env", symlinks=True, with_pip=False)
    (library,) = (each for each in (tmp_path / "env/lib").iterdir() if each.is_dir())
    site = library / "site-packages"
    package = Path(msgspec.__file__).parent
    (metadata,) = package.parent.glob("msgspec-*.dist-info")
    shutil.copytree(package, site / "msgspec")
    shutil.copytree(metadata, site / metadata.name)
    return str(tmp_path / "env/bin/python"), site


def test_a_real_process_of_a_real_environment_is_seen_and_a_replaced_library_until_it_is_restarted(tmp_path):
    python, site = environment(tmp_path)
    (library,) = (site / "msgspec").glob("_core*.so")

    def are_stale(seen):
        return [each.name for each in seen.stale if str(library) in each.files]

    with Running(python, "pass"):
        assert on_this_machine().of(str(site), "msgspec") is Use.ENVIRONMENT
    with Running(python, "import msgspec") as running:
        seen = on_this_machine()
        assert seen.of(str(site), "msgspec") is Use.LOADED
        assert are_stale(seen) == []
        shutil.copy(library, tmp_path / "newer")
        (tmp_path / "newer").rename(library)
        assert len(are_stale(on_this_machine())) == 1
        assert str(running.process.pid) not in repr(on_this_machine().stale)
    with Running(python, "import msgspec"):
        assert are_stale(on_this_machine()) == []


def test_a_real_library_that_is_loaded_by_hand_is_seen_when_its_package_is_removed(tmp_path):
    site = tmp_path / "lib/python3.11/site-packages"
    (library,) = Path(msgspec.__file__).parent.glob("_core*.so")
    (site / "mine").mkdir(parents=True)
    copy = Path(shutil.copy(library, site / "mine/_x.so"))
    with Running(sys.executable, f"import ctypes; ctypes.CDLL({str(copy)!r})"):
        assert [each.loaded for each in on_this_machine().environments if each.path == str(site)] == [()]
        shutil.rmtree(site / "mine")
        assert any(str(copy) in each.files for each in on_this_machine().stale)
