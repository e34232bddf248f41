"""What one thing of NVIDIA's is."""

from __future__ import annotations

from agent.model import Value


class NvidiaComponent(Value, frozen=True, kw_only=True):
    """One thing of NVIDIA's: ``name`` as in ``driver``, ``cuda-toolkit``, ``cudnn``, ``nccl``, ``container-toolkit``.

    ``path`` is where it lies; ``owner`` the key of the package that put it there (``deb:…``), or the environment's
    distribution (``/opt/conda/lib/python3.11/site-packages#nvidia-cudnn-cu12``), empty where nothing tells.
    ``version`` is empty where no file tells it.
    """

    name: str
    version: str
    path: str
    owner: str = ""
