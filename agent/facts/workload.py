"""What a workload is: a process that has a GPU open, whose it is and what it runs."""

from __future__ import annotations

from typing import Literal

from agent.facts.ports import Exposure
from agent.model import Value

_TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/user/")  # noqa: S108 -- named to be recognised, not written to


class Program(Value, frozen=True, kw_only=True):
    """What a process runs. ``path`` is its program as the kernel names it, empty where that may not be seen.

    ``origin`` says what has become of the file since: ``file`` is still there, ``deleted`` is not, in the place of
    ``replaced`` lies another one, as after an update, and ``memory`` never was a file on a disk (memfd). ``script``
    and ``module`` are what a Python was told to run.
    """

    path: str = ""
    origin: Literal["file", "deleted", "replaced", "memory", "unknown"] = "unknown"
    script: str = ""
    module: str = ""

    @property
    def is_temporary(self) -> bool:
        """Whether the program, or the script, lies where anybody may put it and nothing is meant to stay."""
        return self.path.startswith(_TEMPORARY) or self.script.startswith(_TEMPORARY)

    @property
    def is_hidden(self) -> bool:
        """Whether the program lies in a directory that is not listed by default, as ``~/.cache``, or is so itself."""
        return "/." in self.path


class GpuPart(Value, frozen=True, kw_only=True):
    """A part of a GPU (MIG); no compute instance where the process holds the GPU instance as a whole."""

    gpu_instance: int
    compute_instance: int | None = None


class HeldGpu(Value, frozen=True, kw_only=True):
    """A GPU that a process has open: ``minor`` is the number of /dev/nvidia0, the rest what the driver says of it.

    ``minor`` is None for one that NVML alone told of. ``memory`` in bytes and ``utilisation`` in percent are None
    until NVML was asked, and where it does not say.
    """

    minor: int | None
    address: str = ""
    uuid: str = ""
    parts: tuple[GpuPart, ...] = ()
    memory: int | None = None
    utilisation: int | None = None


class Container(Value, frozen=True, kw_only=True):
    """The container of a process: the runtime that made it and its id; name and image where they are known."""

    kind: str
    id: str
    name: str = ""
    image: str = ""

    @property
    def short(self) -> str:
        """The id as people write it."""
        return self.id[:12]


class Job(Value, frozen=True, kw_only=True):
    """A scheduler's job. What only the environment of the process says is ``claimed``: it may say anything there."""

    kind: Literal["slurm", "kubernetes", "ray", "vertex"]
    id: str
    step: str = ""
    claimed: bool = False


class OpenPort(Value, frozen=True, kw_only=True):
    """A TCP port on which the process listens."""

    port: int
    address: str
    exposure: Exposure

    @property
    def name(self) -> str:
        """As the subjects of listeners are written."""
        return f"tcp/{self.port}"


class Remote(Value, frozen=True, kw_only=True):
    """Where the process is connected to by TCP: the port there and how far away it is, not whose it is."""

    port: int
    exposure: Exposure


class Workload(Value, frozen=True, kw_only=True):
    """A process that has a GPU open. ``(pid, started)`` names it; ``started`` is in clock ticks since the boot.

    ``login`` and ``session`` are the user who logged in, whoever it became since, and the audit session. ``unit`` is
    the innermost unit of systemd. ``environments`` are directories of Python packages; ``prefix`` is what the
    variables of conda or a virtual environment name. ``frameworks`` and ``libraries`` (NVIDIA's own) are told by the
    files mapped. ``preload`` is what LD_PRELOAD and LD_AUDIT named when the program was started. ``visible`` is
    CUDA_VISIBLE_DEVICES. ``named`` are the entries of the table of misuse that the command line or the name matches.
    ``truncated`` says that it has more open or mapped than was looked at.
    """

    pid: int
    started: int
    parent: int = 0
    name: str = ""
    uid: int
    user: str = ""
    login: int | None = None
    login_user: str = ""
    session: int | None = None
    unit: str = ""
    container: Container | None = None
    jobs: tuple[Job, ...] = ()
    program: Program = Program()
    environments: tuple[str, ...] = ()
    prefix: str = ""
    frameworks: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    notebook: str = ""
    kernel: str = ""
    gpus: tuple[HeldGpu, ...] = ()
    visible: str = ""
    mps: Literal["", "control", "server", "client"] = ""
    ports: tuple[OpenPort, ...] = ()
    remotes: tuple[Remote, ...] = ()
    models: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """The identity until the next boot; a pid alone is used again."""
        return (self.pid, self.started)

    @property
    def label(self) -> str:
        """What to call it in a sentence: the script or module that it runs, else its program."""
        return self.program.script or self.program.module or self.program.path or self.name
