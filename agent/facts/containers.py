"""Containers: which run, from which images, and what is installed in them."""

from __future__ import annotations

from agent.facts.packages import Package
from agent.facts.python import Environment
from agent.facts.rpm import RpmPackage
from agent.model import Fact, Unknown, Value


class Image(Value, frozen=True, kw_only=True):
    """An image on the disk. ``names`` as people wrote them, ``digest`` as ``sha256:…`` that names its content."""

    names: tuple[str, ...]
    digest: str
    runtime: str
    is_deep_learning_container: bool = False


class Container(Value, frozen=True, kw_only=True):
    """A running container and what is installed in it.

    ``place`` is the stable key of it in findings, ``container:IMAGE`` or, of an unknown image, ``container:ID``.
    ``release`` is ``ID VERSION_ID`` of its os-release. Paths of ``environments`` are those inside.
    """

    place: str
    id: str
    name: str = ""
    image: str = ""
    digest: str = ""
    runtime: str = ""
    release: str = ""
    debs: tuple[Package, ...] = ()
    rpms: tuple[RpmPackage, ...] = ()
    environments: tuple[Environment, ...] = ()
    holds_gpu: bool = False
    gaps: tuple[Unknown, ...] = ()


class Containers(Fact, frozen=True, kw_only=True):
    """The running containers, one for each image where several are alike, and the images on the disk."""

    containers: tuple[Container, ...] = ()
    images: tuple[Image, ...] = ()
