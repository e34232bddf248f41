"""What the GPUs rest on, as the machine shows it: the kernel module and the ways past the driver."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.facts import module_signature
from agent.facts.gpu_access import MPS, GpuAccess, count_people
from agent.facts.gpu_libraries import GpuLibraries
from agent.facts.gpu_module import GpuModule, Setting, parse_arguments, parse_firmware_switch, parse_settings
from agent.facts.gpu_stack import gpu_access_ways, gpu_library_files, gpu_module_state
from agent.facts.module_signature import ModuleFile
from agent.host import Host
from tests.fakes.trees import plant

RELEASE = "6.1.0-30-cloud-amd64"
MODULE = f"/lib/modules/{RELEASE}/updates/dkms/nvidia.ko"
EFI = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
CODE = b"\x7fELF\x02" + bytes(3000)
LOADED: dict[str, str | bytes] = {
    "/sys/module/nvidia/version": "580.178.04\n",
    "/sys/module/nvidia/taint": "POE\n",
    "/proc/sys/kernel/osrelease": f"{RELEASE}\n",
    "/proc/sys/kernel/tainted": "12289\n",
    "/proc/cmdline": "BOOT_IMAGE=/vmlinuz token=canary-7f3a91 quiet\n",
    "/proc/driver/nvidia/params": 'DeviceFileMode: 438\nRegistryDwords: ""\nSomethingNew: 4\n',
    f"/lib/modules/{RELEASE}/modules.dep": (
        "kernel/net/nvidianet.ko:\nupdates/dkms/nvidia-drm.ko: updates/dkms/nvidia.ko\nupdates/dkms/nvidia.ko:\n"
    ),
    MODULE: CODE,
}


def a_signature(signer: bytes, *, kind: int = 2, length: int = -1) -> bytes:
    """What sign-file appends, with a message that has nothing but a name in it."""
    message = b"0\x82" + bytes.fromhex("0603550403") + b"\x0c" + bytes([len(signer)]) + signer + b"\x02\x14serial"
    size = len(message) if length < 0 else length
    return message + struct.pack(">5B3xI", 0, 0, kind, 0, 0, size) + b"~Module signature appended~\n"


def module(tmp_path, files) -> GpuModule:
    return gpu_module_state(plant(tmp_path, {**LOADED, **files}), Config())


def access(tmp_path, files) -> GpuAccess:
    return gpu_access_ways(plant(tmp_path, {**LOADED, **files}), Config())


def test_without_a_gpu_nothing_is_read_and_nothing_is_missing(tmp_path):
    tree = {
        "/sys/bus/pci/devices/0000:00:03.0/vendor": "0x8086\n",
        "/etc/ld.so.conf": "/opt/lib\n",
        "/etc/ld.so.preload": "/opt/lib/hook.so\n",
        "/etc/docker/daemon.json": "not JSON",
    }
    host = plant(tmp_path, tree)
    os.mkfifo(tmp_path / "etc/passwd")
    assert gpu_module_state(host, Config()) == GpuModule()
    assert gpu_library_files(host, Config(), None) == GpuLibraries()
    assert gpu_access_ways(host, Config()) == GpuAccess()


def test_a_kernel_without_pci_is_a_machine_without_gpu(tmp_path):
    assert gpu_module_state(plant(tmp_path, {"/etc/": ""}), Config()) == GpuModule()


def test_a_gpu_without_its_driver_is_looked_at(tmp_path):
    tree = {"/sys/bus/pci/devices/0000:00:04.0/vendor": "0x10de\n", "/proc/sys/kernel/tainted": "1\n"}
    assert gpu_module_state(plant(tmp_path, tree), Config()).kernel_taint == 1


def test_the_module_is_seen_with_its_marks_and_its_file(tmp_path):
    seen = module(tmp_path, {})
    assert (seen.taint, seen.kernel_taint) == ("POE", 12289)
    assert seen.file == ModuleFile(path=MODULE, signed=False)
    assert (seen.secure_boot, seen.setup_mode, seen.lockdown, seen.keys) == (False, False, "", ())
    assert seen.parameters == {"DeviceFileMode": "438", "RegistryDwords": ""}
    assert (seen.settings, seen.gaps) == ((), ())
    assert [each.path for each in seen.trusted] == [MODULE]


def test_the_modules_are_seen_past_a_unit_that_hides_them(tmp_path):
    hidden = {name: text for name, text in LOADED.items() if not name.startswith("/lib/modules")}
    there = {f"/proc/1/root{name}": text for name, text in LOADED.items() if name.startswith("/lib/modules")}
    seen = gpu_module_state(plant(tmp_path, {**hidden, **there, "/proc/1/root/etc/": ""}), Config())
    assert seen.file == ModuleFile(path=MODULE, signed=False)
    assert [each.path for each in seen.trusted] == [MODULE]


def test_secure_boot_lockdown_and_keys_are_told(tmp_path):
    files = {
        f"{EFI}/SecureBoot-{GLOBAL}": b"\x06\0\0\0\x01",
        f"{EFI}/SetupMode-{GLOBAL}": b"\x06\0\0\0\0",
        "/sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
        "/var/lib/shim-signed/mok/MOK.priv": "canary-7f3a91",
        MODULE: CODE + a_signature(b"gpu-1 Secure Boot Module Signature key"),
    }
    seen = module(tmp_path, files)
    assert (seen.secure_boot, seen.setup_mode, seen.lockdown) == (True, False, "integrity")
    assert [key.path for key in seen.keys] == ["/var/lib/shim-signed/mok/MOK.priv"]
    assert seen.file == ModuleFile(path=MODULE, signed=True, signer="gpu-1 Secure Boot Module Signature key")
    assert "canary" not in repr(seen)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the signature that a kernel would take")
def test_the_signer_is_found_in_a_real_signature(tmp_path):
    (tmp_path / "code").write_bytes(CODE)
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert"]
    subprocess.run(
        [*request, "-subj", "/O=Example/CN=DKMS module signing key"], check=True, capture_output=True, cwd=tmp_path
    )
    sign = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-outform", "DER", "-signer", "cert"]
    subprocess.run([*sign, "-inkey", "key", "-in", "code", "-out", "signature"], check=True, cwd=tmp_path)
    message = (tmp_path / "signature").read_bytes()
    trailer = struct.pack(">5B3xI", 0, 0, 2, 0, 0, len(message)) + b"~Module signature appended~\n"
    assert module_signature.parse(CODE + message + trailer) == "DKMS module signing key"


def test_a_compressed_module_does_not_tell_whether_it_is_signed(tmp_path):
    dep = f"/lib/modules/{RELEASE}/modules.dep"
    seen = module(tmp_path, {dep: "extra/nvidia.ko.xz:\n", f"/lib/modules/{RELEASE}/extra/nvidia.ko.xz": "xz"})
    assert seen.file == ModuleFile(path=f"/lib/modules/{RELEASE}/extra/nvidia.ko.xz", signed=None)


def test_of_a_module_of_ten_gigabytes_the_end_is_read(tmp_path):
    host = plant(tmp_path, LOADED)
    with (tmp_path / MODULE.lstrip("/")).open("r+b") as file:
        file.seek(10 << 30)
        file.write(a_signature(b"someone"))
    assert gpu_module_state(host, Config()).file == ModuleFile(path=MODULE, signed=True, signer="someone")


def test_a_module_that_is_a_pipe_and_settings_that_are_one_are_gaps(tmp_path):
    host = plant(tmp_path, {name: text for name, text in LOADED.items() if name != MODULE})
    (tmp_path / MODULE.lstrip("/")).parent.mkdir(parents=True)
    os.mkfifo(tmp_path / MODULE.lstrip("/"))
    (tmp_path / "etc/modprobe.d").mkdir(parents=True)
    os.mkfifo(tmp_path / "etc/modprobe.d/nvidia.conf")
    seen = gpu_module_state(host, Config())
    assert [gap.reason.rpartition(" is ")[2] for gap in seen.gaps] == ["not a regular file"] * 2
    assert {gap.scope for gap in seen.gaps} == {"/lib/modules", "/etc/modprobe.d/nvidia.conf"}


def test_parameters_come_with_where_they_are_set_and_nothing_else_of_those_files(tmp_path):
    files = {
        "/etc/modprobe.d/nvidia.conf": (
            "# options nvidia NVreg_DeviceFileMode=0\n"
            'options nvidia NVreg_DeviceFileMode=0660 \\\n  NVreg_RegistryDwords="a=1;b=2" password=canary-7f3a91\n'
            "options nvidia_drm modeset=1\noptions nvidia-current NVreg_DeviceFileGID=44\n"
        ),
        "/etc/modprobe.d/other.conf": "options kvm nested=1\n",
        "/proc/cmdline": "nvidia.NVreg_EnableDbgBreakpoint=1 xnvidia.NVreg_No=1 token=canary-7f3a91\n",
    }
    seen = module(tmp_path, files)
    place = "/etc/modprobe.d/nvidia.conf"
    assert seen.settings == (
        Setting(name="DeviceFileMode", value="0660", place=place),
        Setting(name="RegistryDwords", value="a=1;b=2", place=place),
        Setting(name="DeviceFileGID", value="44", place=place),
        Setting(name="EnableDbgBreakpoint", value="1", place="/proc/cmdline"),
    )
    assert place in [each.path for each in seen.trusted]
    assert "canary" not in repr(seen)


@settings(max_examples=50)
@given(st.text())
def test_any_settings_parse_and_are_safe_to_show(text):
    for each in (*parse_settings(f"options nvidia {text}", "/x"), *parse_arguments(text)):
        assert each.name.isascii()
        assert each.value.isprintable()


NAMES = st.from_regex(r"[A-Z][A-Za-z]{2,20}", fullmatch=True)
VALUES = st.from_regex(r"[A-Za-z0-9=;,/.]{1,20}", fullmatch=True)


@settings(max_examples=50)
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.booleans())
def test_what_is_set_is_found_quoted_or_not_on_one_line_or_several(wanted, quoted):
    mark = '"' if quoted else ""
    words = [f"NVreg_{name}={mark}{value}{mark}" for name, value in wanted.items()]
    found = {each.name: each.value for each in parse_settings("options nvidia " + " \\\n".join(words), "/x")}
    assert found == wanted
    arguments = " ".join(f"nvidia.{word}" for word in words)
    assert {each.name: each.value for each in parse_arguments(arguments)} == wanted


@settings(max_examples=100)
@given(st.binary(max_size=8))
def test_only_a_switch_of_the_firmware_is_on_or_off(content):
    expected = {b"\0": False, b"\x01": True}.get(content[4:]) if len(content) == 5 else None
    assert parse_firmware_switch(content) is expected


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_any_end_of_a_module_parses(content, length, kind):
    assert module_signature.parse(content) is None
    signer = module_signature.parse(content + a_signature(b"x", kind=kind, length=length))
    assert signer is not None
    assert signer.isprintable()
    assert module_signature.parse(content + b"~Module signature appended~\n") in {None, ""}


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=100))
def test_any_signer_is_found_and_safe_to_show(name):
    found = module_signature.parse(CODE + a_signature(name))
    assert found is not None
    assert found.isprintable()


def test_the_ways_past_the_driver(tmp_path):
    files = {
        "/etc/docker/daemon.json": '{"default-runtime": "nvidia", "log-opts": {"splunk-token": "canary-7f3a91"}}',
        "/etc/cdi/nvidia.yaml": "canary-7f3a91",
        "/usr/bin/nvidia-ctk": "ELF",
        "/etc/passwd": "root:x:0:0::/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/bash\n",
        "/proc/driver/nvidia/capabilities/mig/config": "DeviceFileMinor: 1\nDeviceFileMode: 256\n",
        "/proc/driver/nvidia/capabilities/mig/monitor": "DeviceFileMinor: 2\n",
    }
    seen = access(tmp_path, files)
    assert [each.path for each in seen.trusted] == [
        "/usr/bin/nvidia-ctk", "/etc/docker/daemon.json", "/etc/cdi", "/etc/cdi/nvidia.yaml",
    ]  # fmt: skip
    assert (seen.default_runtime, seen.people, seen.managing) == ("nvidia", 1, ("/dev/nvidia-caps/nvidia-cap1",))
    assert (seen.mps, seen.gaps) == (None, ())
    assert "canary" not in repr(seen)


@pytest.mark.parametrize("content", ["[", '{"default-runtime": 3}', "\0", "[" * 100_000])
def test_settings_of_docker_that_are_none_are_a_gap(tmp_path, content):
    seen = access(tmp_path, {"/etc/docker/daemon.json": content})
    assert [gap.scope for gap in seen.gaps] == ["nvidia-container-toolkit"]


def test_firmware_that_cannot_be_read_leaves_all_open_that_it_decides(tmp_path):
    seen = module(tmp_path, {f"{EFI}/SecureBoot-{GLOBAL}/": ""})
    assert seen.secure_boot is None
    assert [gap.scope for gap in seen.gaps] == [""]


def test_mps_counts_when_something_waits_there(tmp_path):
    assert access(tmp_path, {f"{MPS}/": ""}).mps is None
    os.mkfifo(tmp_path / f"{MPS}/control".lstrip("/"))
    (tmp_path / MPS.lstrip("/")).chmod(0o777)
    seen = gpu_access_ways(Host(str(tmp_path)), Config()).mps
    assert seen is not None
    assert (seen.path, seen.owner, seen.mode) == (MPS, os.getuid(), 0o777)


def test_mps_is_seen_past_a_tmp_of_ones_own(tmp_path):
    seen = access(tmp_path, {"/proc/1/root/etc/": "", f"/proc/1/root{MPS}/control": ""}).mps
    assert seen is not None
    assert seen.path == MPS


def test_a_link_where_mps_should_be_belongs_to_who_made_it(tmp_path):
    seen = access(tmp_path, {"/home/ann/mps/control": "", MPS: "-> ../home/ann/mps"}).mps
    assert seen is not None
    assert seen.mode == 0o700


@settings(max_examples=50)
@given(st.binary())
def test_any_passwd_is_counted(content):
    assert count_people(content) >= 0


def test_people_have_a_shell_and_a_number_of_people():
    lines = (
        b"root:x:0:0::/root:/bin/bash", b"ann:x:1000:1000::/home/ann:/bin/bash", b"too:x:1000:1000::/:/bin/sh",
        b"svc:x:1001:1001::/:/usr/sbin/nologin", b"off:x:1002:1002::/:/bin/false", b"nobody:x:65534:65534::/:/bin/sh",
        b"bob:x:1003:1003::/home/bob:/bin/zsh", b"+nis", b"x:x:x:x:x:x:x",
    )  # fmt: skip
    assert count_people(b"\n".join(lines)) == 2
