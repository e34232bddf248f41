"""What a process was told when it was started: the few of its variables and words that are no secrets.

Environments and command lines hold passwords and tokens. Of the variables only those named here are read, and only
values that look as theirs do are kept; of the words only a script, a module and the name of a notebook's kernel.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence

from agent.facts.python_commands import parse_command
from agent.facts.workload import Job
from agent.host import shown
from agent.model import Value

_PATH_BYTES = 4096
"""PATH_MAX of linux/limits.h."""
_PRELOADS = ("LD_PRELOAD", "LD_AUDIT")
_PRELOADED = 20
OTHER = "…"
"""Stands for a word that is no name of a library; that something is there is told all the same."""
_LIBRARY = re.compile(r"[\w.+-]{1,200}\.so[\w.]{0,50}", re.ASCII)
_DEVICES = re.compile(r"[\w,:/. -]{0,400}", re.ASCII)
_NUMBER = re.compile(r"\d{1,10}", re.ASCII)
_WORD = re.compile(r"[\w.-]{1,128}", re.ASCII)
_STEP = re.compile(r"\d{1,10}|batch|extern|interactive", re.ASCII)
_KERNEL = re.compile(r"(?:.*/)?kernel-([\w-]{1,64})\.json", re.ASCII | re.DOTALL)
_MODULE = re.compile(r"[\w.]{1,200}")
_SCRIPT_ENDINGS = (".py", ".pyc", ".pyz", ".ipynb")


def _is_path(value: str) -> bool:
    return value.startswith("/") and len(value) <= _PATH_BYTES


def _is_notebook(value: str) -> bool:
    return value.endswith(".ipynb") and len(value) <= _PATH_BYTES


def _fits(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda value: pattern.fullmatch(value) is not None


_KEPT: Mapping[str, Callable[[str], bool]] = {
    # https://docs.conda.io/projects/conda/en/stable/dev-guide/deep-dives/activation.html
    "CONDA_PREFIX": _is_path,
    "VIRTUAL_ENV": _is_path,  # https://docs.python.org/3/library/venv.html
    "SLURM_JOB_ID": _fits(_NUMBER),  # https://slurm.schedmd.com/srun.html
    "SLURM_STEP_ID": _fits(_STEP),
    "RAY_JOB_ID": _fits(_WORD),
    "CLOUD_ML_JOB_ID": _fits(_WORD),  # https://cloud.google.com/vertex-ai/docs/training/code-requirements
    "JPY_SESSION_NAME": _is_notebook,  # https://github.com/jupyter-server/jupyter_server
    "CUDA_VISIBLE_DEVICES": _fits(_DEVICES),  # https://docs.nvidia.com/cuda/cuda-programming-guide/
    # https://man7.org/linux/man-pages/man8/ld.so.8.html
    "LD_PRELOAD": bool,
    "LD_AUDIT": bool,
}


class Environment(Value, frozen=True, kw_only=True):
    """What is kept of an environment."""

    prefix: str = ""
    notebook: str = ""
    visible: str = ""
    jobs: tuple[Job, ...] = ()
    preload: tuple[str, ...] = ()


def parse_environment(content: bytes) -> Environment:
    """What the start of a /proc/PID/environ tells; of a name that is there twice the first counts."""
    values: dict[str, str] = {}
    for line in content.split(b"\0"):
        name, equals, value = line.partition(b"=")
        key = name.decode("ascii", "replace")
        if equals and key in _KEPT and key not in values:
            values[key] = value.decode("utf-8", "surrogateescape")
    values = {name: value for name, value in values.items() if _KEPT[name](value)}
    return Environment(
        # Of a virtual environment made inside a conda one both are set, and Python runs from the former.
        prefix=shown(values.get("VIRTUAL_ENV") or values.get("CONDA_PREFIX", "")),
        notebook=shown(values.get("JPY_SESSION_NAME", "")),
        visible=values.get("CUDA_VISIBLE_DEVICES", ""),
        jobs=_jobs(values),
        preload=tuple(each for name in _PRELOADS for each in parse_preload(values.get(name, ""))),
    )


def _jobs(values: Mapping[str, str]) -> tuple[Job, ...]:
    jobs = list[Job]()
    if "SLURM_JOB_ID" in values:
        step = values.get("SLURM_STEP_ID", "")
        jobs.append(Job(kind="slurm", id=values["SLURM_JOB_ID"], step=step, claimed=True))
    if "RAY_JOB_ID" in values:
        jobs.append(Job(kind="ray", id=values["RAY_JOB_ID"], claimed=True))
    if "CLOUD_ML_JOB_ID" in values:
        jobs.append(Job(kind="vertex", id=values["CLOUD_ML_JOB_ID"], claimed=True))
    return tuple(jobs)


def parse_preload(text: str) -> tuple[str, ...]:
    """The libraries that LD_PRELOAD or /etc/ld.so.preload names."""
    names = [each for each in re.split(r"[\s:\0]+", text) if each]
    found = [shown(each) if _is_path(each) or _LIBRARY.fullmatch(each) else OTHER for each in names[:_PRELOADED]]
    return tuple(dict.fromkeys(found))


class Words(Value, frozen=True, kw_only=True):
    """What is kept of a command line."""

    script: str = ""
    module: str = ""
    kernel: str = ""


def parse_words(words: Sequence[str], folder: str) -> Words:
    """What the command line of a Python, that works in ``folder``, names to run.

    A process may write there whatever it likes: what does not look like a script or a module is not kept.
    """
    command = parse_command(words)
    script = ""
    if command.script and len(command.script) <= _PATH_BYTES:
        path = posixpath.normpath(posixpath.join(folder, command.script))
        is_script = path.endswith(_SCRIPT_ENDINGS) or path.rpartition("/")[0].endswith("/bin")
        script = shown(path) if path.startswith("/") and is_script else ""
    kernel = next((match[1] for word in words if len(word) <= _PATH_BYTES and (match := _KERNEL.fullmatch(word))), "")
    module = command.module if _MODULE.fullmatch(command.module) else ""
    return Words(script=script, module=shown(module), kernel=kernel)
