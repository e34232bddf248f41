"""GPUs as facts, for the checks: a T4 that is well and what it does, with a field or two changed."""

from __future__ import annotations

from typing import Any

from agent.facts.nvml import Gpu, Refused, Sample
from tests.fakes.nvml import address, uuid

NOT_SUPPORTED = Refused(error="NOT_SUPPORTED")
_IDENTITY: dict[str, Any] = {"index": 0, "uuid": uuid(0), "address": address(0)}


def a_well_gpu(**fields: Any) -> Gpu:
    """A T4 that is well; corrected errors, and uncorrected ones of long ago, are part of a normal life."""
    said: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, NOT_SUPPORTED) | _IDENTITY | {
        "name": "Tesla T4", "architecture": "Turing", "compute_capability": "7.5", "memory_total": 1 << 34,
        "persistence": True, "compute_mode": "default", "accounting": False, "display_active": False,
        "virtualisation": "pass-through", "gsp": True, "ecc_enabled": True, "ecc_pending": True,
        "corrected_volatile": 9, "corrected_aggregate": 900, "uncorrected_volatile": 0, "uncorrected_aggregate": 4,
        "pages_retired": 2, "pages_retired_uncorrected": 1, "retirement_pending": False, "recovery_action": "none",
        "inforom_valid": True, "power_limit": 70000, "power_default": 70000, "slowdown_temperature": 93,
        "pcie_generation_max": 3, "pcie_width_max": 16,
    }  # fmt: skip
    return Gpu(**said | fields)


def refusing(error: str, *, keep: tuple[str, ...] = ()) -> Gpu:
    """One of which NVML refuses all but its number and what is named."""
    names = [name for name in Gpu.__struct_fields__ if name not in ("index", *keep)]
    return a_well_gpu(**dict.fromkeys(names, Refused(error=error)))


def a_sample(**fields: Any) -> Sample:
    """The same GPU at work."""
    said: dict[str, Any] = dict.fromkeys(Sample.__struct_fields__, NOT_SUPPORTED) | _IDENTITY | {
        "persistence": True, "memory_total": 1 << 34, "memory_used": 1 << 33, "utilisation": 100,
        "memory_utilisation": 40, "temperature": 80, "power": 69000, "energy": 1000, "performance_state": 0,
        "clock_reasons": 4, "pcie_generation": 3, "pcie_width": 16, "replays": 0, "compute": (), "graphics": (),
        "mps": (),
    }  # fmt: skip
    return Sample(**said | fields)
