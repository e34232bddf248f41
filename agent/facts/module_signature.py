"""Whether the file of a kernel module is signed, and by whom, from the end of the file.

Format: https://docs.kernel.org/admin-guide/module-signing.html#signed-modules-and-stripping and
https://github.com/torvalds/linux/blob/master/include/linux/module_signature.h
"""

from __future__ import annotations

import struct

from agent.host import Host, shown
from agent.model import Value

_MARK = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">5B3xI")
_PKCS7 = 2
_LARGEST = 65536
"""Signatures are below 2 kB; they hold no certificates."""
_COMMON_NAME = bytes.fromhex("0603550403")
"""The object identifier 2.5.4.3 as DER writes it: https://www.rfc-editor.org/rfc/rfc5280#appendix-A"""
_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii"}
"""UTF8String, PrintableString and IA5String: https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.4"""
_LONG = 0x80
"""From here on a length takes more than one byte; names are shorter."""


class ModuleFile(Value, frozen=True, kw_only=True):
    """The file of a kernel module; ``signed`` is None where it is compressed, so that its end tells nothing.

    ``signer`` is who the signature says that it is by. The signature is not verified: that is the kernel's work.
    """

    path: str
    signed: bool | None
    signer: str = ""


def read(host: Host, path: str) -> ModuleFile:
    """What the end of the file tells. Only that is read, however large the file is."""
    if not path.endswith(".ko"):
        return ModuleFile(path=shown(path), signed=None)
    with host.parts(path) as parts:
        length = min(parts.size, _LARGEST)
        signature = parse(parts.read(parts.size - length, length))
    return ModuleFile(path=shown(path), signed=signature is not None, signer=signature or "")


def parse(end: bytes) -> str | None:
    """Who signed, as far as it tells, from the last bytes of a module; None where it is not signed."""
    if not end.endswith(_MARK) or len(end) < len(_MARK) + _TRAILER.size:
        return None
    body = end[: -len(_MARK)]
    _, _, kind, _, _, size = _TRAILER.unpack(body[-_TRAILER.size :])
    body = body[: -_TRAILER.size]
    return _signer(body[-size:]) if kind == _PKCS7 and 0 < size <= len(body) else ""


def _signer(message: bytes) -> str:
    """The common name of the certificate that signed: the last one in the message, which carries no certificates."""
    place = message.rfind(_COMMON_NAME)
    value = message[place + len(_COMMON_NAME) :] if place >= 0 else b""
    if len(value) < 2 or value[0] not in _STRINGS or value[1] >= _LONG:  # noqa: PLR2004 -- kind and length
        return ""
    return shown(value[2 : 2 + value[1]])
