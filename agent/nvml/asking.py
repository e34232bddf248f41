"""Asking NVML through its bindings: every refusal comes back by its name, and every text printable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pynvml

from agent.facts.nvml import Refused
from agent.host import shown

_ERRORS = {
    code: name.removeprefix("NVML_ERROR_") for name, code in vars(pynvml).items() if name.startswith("NVML_ERROR_")
}
# Where in the union a value is, by the type that comes with it: nvmlValueType_t of
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

_MOST_PARTS = 64
_EMPTY = {"NOT_FOUND", "INVALID_ARGUMENT"}


def ask(call: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML says, or with which error it refuses; names come out printable."""
    try:
        said = call(*arguments)
    except pynvml.NVMLError as error:
        return refused(error.value)
    except UnicodeDecodeError as error:  # the bindings decode names strictly; the bytes are still there
        return shown(error.object)
    return shown(said) if isinstance(said, (str, bytes)) else said


def part(said: Any, pick: Callable[[Any], Any]) -> Any:
    """What is of interest in an answer; a refusal stays one."""
    return said if isinstance(said, Refused) else pick(said)


def refused(code: int) -> Refused:
    """A return code by its name."""
    return Refused(error=error_name(code))


def error_name(code: int) -> str:
    """The name of a return code."""
    return "SUCCESS" if code == pynvml.NVML_SUCCESS else _ERRORS.get(code, f"CODE_{code}")


def named(said: Any, names: Mapping[int, str]) -> Any:
    """The word for a number; one that is newer than we are stays a number."""
    return part(said, lambda number: names.get(number, f"number {number}"))


def fields(handle: Any, wanted: Iterable[int | tuple[int, int]]) -> list[Any]:
    """Field values, each a number or refused by itself; a pair is a field of one link."""
    chosen = list(wanted)
    said = ask(pynvml.nvmlDeviceGetFieldValues, handle, chosen)
    return [said] * len(chosen) if isinstance(said, Refused) else [_value(each) for each in said]


def _value(field: Any) -> int | Refused:
    if field.nvmlReturn:
        return refused(field.nvmlReturn)
    if field.valueType >= len(_MEMBERS):
        return Refused(error=f"VALUE_TYPE_{field.valueType}")
    return int(getattr(field.value, _MEMBERS[field.valueType]))


def address(said: Any) -> Any:
    """Where a GPU sits, as the kernel writes it, so that the two can be compared; NVML's own domain is longer."""
    return part(said, lambda pci: f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0")


def mig_handles(handle: Any) -> list[Any] | Refused:
    """The parts that MIG cut out of a GPU; none where it is off."""
    mode = ask(pynvml.nvmlDeviceGetMigMode, handle)
    if isinstance(mode, Refused) or not mode[0]:
        return mode if isinstance(mode, Refused) else []
    count = ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    if isinstance(count, Refused):
        return count
    found = [ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index) for index in range(min(count, _MOST_PARTS))]
    # The places are not filled in order, and an empty one is no error.
    trouble = [each for each in found if isinstance(each, Refused) and each.error not in _EMPTY]
    return trouble[0] if trouble else [each for each in found if not isinstance(each, Refused)]
