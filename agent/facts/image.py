"""The image that this machine was made from: what it left on disk, and what its name tells.

No marker is certain to be there: image lines differ, and people tidy up. So each is optional and none is proof.
"""

from __future__ import annotations

import datetime as dt
import re

from agent.config import Config
from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

_METADATA = "/opt/deeplearning/metadata"
_BANNER = "Google Deep Learning VM"
_PLACES = (
    "/opt/deeplearning",  # Deep Learning VM, every line of it
    "/opt/c2d",  # the first-boot framework of the Debian lines
    "/opt/google/cuda-installer",  # the driver came from Google's installer, on any image
    "/usr/bin/google_guest_agent",  # any image of Google Cloud
)
_LONGEST = 300
_NAME = re.compile(r"(?P<start>.*?)-v(?P<date>[0-9]{8})(?P<end>-.*)?", re.DOTALL)
_WORKBENCH_NAME = re.compile(r"(?P<date>[0-9]{8})-[0-9]{4}(-rc[0-9]+)?")


class Image(Fact, frozen=True, kw_only=True):
    """What the image left on disk: each empty where it is not there.

    ``environment`` is such as ``common-cu113.m98``, ``container`` the address of the same thing as a container,
    ``version`` and ``based_on`` come from the login banner, ``places`` are the paths that tell of an image line.
    """

    environment: str = ""
    container: str = ""
    banner: bool = False
    version: str = ""
    based_on: str = ""
    places: tuple[str, ...] = ()

    @property
    def is_deep_learning(self) -> bool:
        """Whether something here is only on Deep Learning VM images."""
        return self.banner or bool(self.environment) or "/opt/deeplearning" in self.places


class ImageName(Value, frozen=True, kw_only=True):
    """An image by name: its project, its family as far as the name tells, the day it was made if it does."""

    project: str
    name: str
    family: str
    date: dt.date | None = None


def parse_image_name(text: str) -> ImageName:
    """``projects/PROJECT/global/images/NAME``, or the bare name, of the newer and the older forms.

    ``FAMILY-v20260129`` is the newer form; ``tf-2-3-cu110-notebooks-v20210527-debian-10`` and
    ``c0-deeplearning-common-cu121-v20240627-debian-11-py310`` are older ones, whose family is all but the date and
    the prefix; ``20260301-1200-rc0`` is one of Workbench, which tells no family.
    """
    parts = text.split("/")
    project = parts[parts.index("projects") + 1] if "projects" in parts[:-1] else ""
    name = parts[-1]
    if match := _WORKBENCH_NAME.fullmatch(name):
        return ImageName(project=project, name=name, family="", date=_date(match["date"]))
    match = _NAME.fullmatch(name)
    family = f"{match['start']}{match['end'] or ''}" if match else name
    return ImageName(
        project=project,
        name=name,
        family=family.removeprefix("c0-deeplearning-"),
        date=_date(match["date"]) if match else None,
    )


def _date(digits: str) -> dt.date | None:
    try:
        return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def parse_banner(text: str) -> tuple[bool, str, str]:
    """Whether a login banner is that of a Deep Learning VM, and its lines ``Version:`` and ``Based on:``."""
    fields = dict.fromkeys(("Version", "Based on"), "")
    if _BANNER not in text:
        return False, "", ""
    for line in text.splitlines():
        name, _, value = line.strip().partition(":")
        if name in fields and not fields[name]:
            fields[name] = shown(value.strip()[:_LONGEST])
    return True, fields["Version"], fields["Based on"]


@probe(every=dt.timedelta(hours=6))
def image(host: Host, _config: Config) -> Image:
    """What the machine's image left on disk."""
    gaps: list[Unknown] = []
    banner, version, based_on = parse_banner(_start(host, "/etc/motd", gaps))
    return Image(
        environment=_line(host, f"{_METADATA}/env_version", gaps),
        container=_line(host, f"{_METADATA}/env_uri", gaps),
        banner=banner,
        version=version,
        based_on=based_on,
        places=tuple(place for place in _PLACES if _is_there(host, place, gaps)),
        gaps=tuple(gaps),
    )


def _line(host: Host, path: str, gaps: list[Unknown]) -> str:
    """The first line of a marker."""
    lines = _start(host, path, gaps).splitlines()
    return shown(lines[0].strip()[:_LONGEST]) if lines else ""


def _start(host: Host, path: str, gaps: list[Unknown]) -> str:
    try:
        return host.read_start(path, limit=65536).decode("utf-8", "backslashreplace").strip()
    except AbsentError:
        return ""
    except CannotLookError as error:
        gaps.append(_gap(error))
        return ""


def _is_there(host: Host, path: str, gaps: list[Unknown]) -> bool:
    try:
        return host.exists(path)
    except CannotLookError as error:
        gaps.append(_gap(error))
        return False


def _gap(error: CannotLookError) -> Unknown:
    return Unknown(reason=error.reason, hint=error.hint, scope="image")
