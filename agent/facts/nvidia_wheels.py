"""CUDA libraries that came with Python packages: NVIDIA's own wheels, and copies inside other packages.

Only where Deep Learning VM images and their users install for everybody is looked, so that no directory is walked;
NVIDIA's wheels in other environments are among the Python packages there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.host import Entry, Host, shown
from agent.model import AbsentError, CannotLookError, Unknown, Value

_PREFIXES = ("/usr", "/usr/local", "/opt/conda", "/opt/python")
_PARENTS = ("/opt/conda/envs", "/opt/micromamba/envs", "/opt")
"""Directories in which each directory may be an environment."""
_MOST_PREFIXES = 200
_PYTHON = re.compile(r"python3(?:\.\d{1,2})?", re.ASCII)
_PARTS = "cublas|cuda_cupti|cuda_nvcc|cuda_nvrtc|cuda_runtime|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparselt"
_PARTS += "|nccl|nvjitlink|nvjpeg|nvshmem|nvtx"
_WHEEL = re.compile(rf"nvidia_({_PARTS})(?:_cu\d{{1,2}})?-(\d{{1,5}}(?:\.\d{{1,8}}){{1,4}})\.dist-info", re.ASCII)
"""The parts of CUDA that NVIDIA puts into wheels, such as nvidia_cudnn_cu12-9.1.0.70.dist-info."""
# What wheels of torch bundle carries part of its hash: libcudart-9335f6a2.so.12, libcudnn_ops.so.9, libnccl.so.2.
_BUNDLED = re.compile(
    r"lib(cudart|cublas|cudnn|nccl|nvrtc)(?:-[0-9a-f]{8})?\.so\.(\d{1,5}(?:\.\d{1,8}){0,3})", re.ASCII
)
_CALLED = {"cudart": "cuda-runtime", "nvrtc": "cuda-nvrtc"}


class CudaCopy(Value, frozen=True, kw_only=True):
    """A library of CUDA in an environment; ``owner`` is the distribution that brought it."""

    name: str
    version: str
    path: str
    owner: str


def find(host: Host, gaps: list[Unknown]) -> Iterator[CudaCopy]:
    """The libraries in the environments for everybody; a directory that cannot be listed becomes a gap."""
    for prefix in _prefixes(host, gaps):
        for name in _names(host, f"{prefix}/lib", gaps):
            if _PYTHON.fullmatch(name):
                for kind in ("site-packages", "dist-packages"):
                    yield from _in_environment(host, f"{prefix}/lib/{name}/{kind}", gaps)


def _prefixes(host: Host, gaps: list[Unknown]) -> tuple[str, ...]:
    found = dict.fromkeys(_PREFIXES)
    for parent in _PARENTS:
        found.update(dict.fromkeys(f"{parent}/{name}" for name in _names(host, parent, gaps)))
    prefixes = tuple(found)
    if len(prefixes) > _MOST_PREFIXES:
        gaps.append(Unknown(reason=f"CUDA libraries were looked for in {_MOST_PREFIXES} environments, not in all"))
    return prefixes[:_MOST_PREFIXES]


def _names(host: Host, directory: str, gaps: list[Unknown]) -> list[str]:
    """The directories in a directory, links left out."""
    try:
        return host.directories(directory)
    except AbsentError:
        return []
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(directory)))
        return []


def listed(host: Host, directory: str, gaps: list[Unknown]) -> list[Entry]:
    """What is in a directory; one that is not there holds nothing, one that cannot be listed becomes a gap."""
    try:
        return host.entries(directory)
    except AbsentError:
        return []
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(directory)))
        return []


def _in_environment(host: Host, place: str, gaps: list[Unknown]) -> Iterator[CudaCopy]:
    for name in _names(host, place, gaps):
        if match := _WHEEL.fullmatch(name):
            distribution = name.partition("-")[0].replace("_", "-")
            yield CudaCopy(
                name=match[1].replace("_", "-"),
                version=match[2],
                path=shown(f"{place}/{name}"),
                owner=shown(f"{place}#{distribution}"),
            )
        elif name == "torch":
            yield from _bundled(host, place, gaps)


def _bundled(host: Host, place: str, gaps: list[Unknown]) -> Iterator[CudaCopy]:
    """The copies inside torch, of which only the first part of the version is known."""
    for entry in listed(host, f"{place}/torch/lib", gaps):
        if entry.kind == "file" and (match := _BUNDLED.fullmatch(entry.name)):
            yield CudaCopy(
                name=_CALLED.get(match[1], match[1]),
                version=match[2],
                path=shown(entry.path),
                owner=shown(f"{place}#torch"),
            )
