"""How NVIDIA's container toolkit is configured, as far as it decides whether a flaw of it applies."""

from __future__ import annotations

import msgspec

from agent.host import Host
from agent.model import AbsentError, CannotLookError, Unknown, Value

CONFIGURATION = "/etc/nvidia-container-runtime/config.toml"
SUBJECT = "nvidia-container-toolkit"
SPECIFICATIONS = ("/etc/cdi", "/var/run/cdi")
"""Where the Container Device Interface has its specifications: https://github.com/cncf-tags/container-device-interface"""
_MODES = {"auto", "legacy", "csv", "cdi", "jit-cdi"}


class ToolkitConfiguration(Value, frozen=True, kw_only=True):
    """The settings that flaws depend on. What the file does not set has the toolkit's own default.

    ``mode`` is how devices get into containers; ``hook_in_any_mode`` that the old hook also runs where the mode is
    another. ``crun_only`` says that no other low-level runtime is used, ``container_ldconfig`` that ldconfig is taken
    from the container, ``container_cuda`` that CUDA libraries of the container go before those of the host.
    ``cdi_specifications`` says that some tool may give NVIDIA's devices by CDI whatever the mode is here.
    ``asked_by_environment`` lets any image have GPUs by a variable of its own, ``asked_by_mounts`` by a mount, which
    only who starts the container can ask for. ``no_cgroups`` leaves device control groups alone, as rootless
    containers need it. ``allow_container_ldconfig`` makes newer versions obey ``container_ldconfig``.

    Settings: https://github.com/NVIDIA/nvidia-container-toolkit/blob/main/internal/config/config.go
    """

    mode: str = "auto"
    hook_in_any_mode: bool = False
    crun_only: bool = False
    container_ldconfig: bool = False
    container_cuda: bool = False
    cdi_specifications: bool = False
    asked_by_environment: bool = True
    asked_by_mounts: bool = False
    no_cgroups: bool = False
    allow_container_ldconfig: bool = False


class _Cli(msgspec.Struct, rename="kebab"):
    ldconfig: str = "@/sbin/ldconfig"
    no_cgroups: bool = False


class _Runtime(msgspec.Struct):
    mode: str = "auto"
    runtimes: tuple[str, ...] = ("runc", "crun")


class _Hook(msgspec.Struct, rename="kebab"):
    skip_mode_detection: bool = False


class _Features(msgspec.Struct, rename="kebab"):
    allow_cuda_compat_libs_from_container: bool = False
    allow_ldconfig_from_container: bool = False


class _File(msgspec.Struct, rename="kebab"):
    accept_nvidia_visible_devices_envvar_when_unprivileged: bool = True
    accept_nvidia_visible_devices_as_volume_mounts: bool = False
    nvidia_container_cli: _Cli = msgspec.field(default_factory=_Cli)
    nvidia_container_runtime: _Runtime = msgspec.field(default_factory=_Runtime)
    nvidia_container_runtime_hook: _Hook = msgspec.field(default_factory=_Hook)
    features: _Features = msgspec.field(default_factory=_Features)


def parse(text: str | bytes) -> ToolkitConfiguration:
    """The settings in a configuration file; ValueError where it is none. No text of the file is kept."""
    file = msgspec.toml.decode(text, type=_File)
    mode, runtimes = file.nvidia_container_runtime.mode, file.nvidia_container_runtime.runtimes
    return ToolkitConfiguration(
        mode=mode if mode in _MODES else "another",
        hook_in_any_mode=file.nvidia_container_runtime_hook.skip_mode_detection,
        crun_only=bool(runtimes) and all(name.rpartition("/")[2] == "crun" for name in runtimes),
        # The mark says "the host's": https://nvidia.custhelp.com/app/answers/detail/a_id/5599
        container_ldconfig=not (file.nvidia_container_cli.ldconfig or "@").startswith("@"),
        container_cuda=file.features.allow_cuda_compat_libs_from_container,
        asked_by_environment=file.accept_nvidia_visible_devices_envvar_when_unprivileged,
        asked_by_mounts=file.accept_nvidia_visible_devices_as_volume_mounts,
        no_cgroups=file.nvidia_container_cli.no_cgroups,
        allow_container_ldconfig=file.features.allow_ldconfig_from_container,
    )


def configuration(host: Host) -> ToolkitConfiguration | Unknown:
    """How the toolkit is configured."""
    try:
        found = parse(host.read(CONFIGURATION, limit=65536))
    except AbsentError:
        found = ToolkitConfiguration()
    except CannotLookError as error:
        return Unknown(reason=error.reason, hint=error.hint, scope=SUBJECT)
    except (
        msgspec.DecodeError,
        ValueError,
        RecursionError,
    ):  # tomli's error on Python 3.10 is a ValueError; neither is quoted
        return Unknown(reason=f"{CONFIGURATION} is not a configuration of the container toolkit", scope=SUBJECT)
    return msgspec.structs.replace(found, cdi_specifications=_has_specifications(host))


def _has_specifications(host: Host) -> bool:
    """Whether a specification of NVIDIA's devices is there."""
    return any(_may_specify(host, directory) for directory in SPECIFICATIONS)


def _may_specify(host: Host, directory: str) -> bool:
    """A directory that cannot be listed may hold one."""
    try:
        return any("nvidia" in entry.name for entry in host.entries(directory, limit=1000))
    except AbsentError:
        return False
    except CannotLookError:
        return True
