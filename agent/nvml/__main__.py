"""The NVML child process: asks the driver once, prints one JSON document and ends.

Started as ``python -I -m agent.nvml LIBRARY QUESTION``. The driver may hang, crash or lie in here: the parent has a
deadline, reads the exit status and decodes what is printed as it would any stranger's. Nothing is ever set on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys

import msgspec
import pynvml

from agent.facts.nvml import Refused, Survey
from agent.nvml.asking import ask, refused
from agent.nvml.gpus import confidential, gpu
from agent.nvml.samples import sample

_MOST_GPUS = 1024
_MOST_MEMORY = 1 << 30  # a process list of absurd length ends this child, not the machine


def main() -> None:
    """Load the library by its path, ask, print."""
    _, path, question = sys.argv
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(
        resource.RLIMIT_DATA, (_MOST_MEMORY if most == resource.RLIM_INFINITY else min(_MOST_MEMORY, most), most)
    )
    # What the library itself prints must not mix with the answer, so it goes where errors go.
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        try:
            # With the library in place the bindings look for none, so LD_LIBRARY_PATH and the like decide nothing.
            pynvml.nvmlLib = ctypes.CDLL(path)
        except OSError as error:
            sys.exit(f"the library does not load: {error}")
        answer.write(msgspec.json.encode(survey(question)))


def survey(question: str) -> Survey:
    """Everything that is asked, in one go."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Survey(refused=refused(error.value))
    try:
        count = ask(pynvml.nvmlDeviceGetCount)
        if isinstance(count, Refused):
            return Survey(refused=count)
        if count > _MOST_GPUS:
            sys.exit(f"NVML claims {count} GPUs")
        driver = ask(pynvml.nvmlSystemGetDriverVersion)
        if question == "samples":
            return Survey(driver=driver, samples=tuple(map(sample, range(count))))
        inforom = question == "gpus-and-inforom"
        gpus = tuple(gpu(index, inforom=inforom) for index in range(count))
        return Survey(driver=driver, confidential=confidential(), gpus=gpus)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


if __name__ == "__main__":
    main()
