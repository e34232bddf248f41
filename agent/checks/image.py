"""Whether the image that this machine was made from is still looked after."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from agent.config import Config
from agent.facts.image import Image, ImageName, parse_image_name
from agent.facts.image_family import NewestImage
from agent.facts.instance import Instance
from agent.knowledge import ImageFamily, ImageLifecycle
from agent.model import CannotLookError, Duty, Finding, Moment, Severity, check

_PAGE = "https://docs.cloud.google.com/deep-learning-vm/docs/images"


@check(
    severity=Severity.HIGH,
    duty=Duty.LATEST_IMAGES,
    fix="Create the VM anew from a current image family; images are not upgraded in place.",
)
def image_end_of_patch(
    instance: Instance, image: Image, lifecycle: ImageLifecycle, moment: Moment
) -> Iterator[Finding]:
    """The image family of this Deep Learning VM gets no more patches.

    After its end of patch no new version of a family is made: driver, CUDA and framework stay as they are, with every
    flaw found since. A year later the images themselves go, and the machine cannot be made again. The dates are those
    of Google's list of images.
    """
    name = _published(instance, image, lifecycle)
    family = _family(name, lifecycle) if name and name.project in lifecycle.projects else None
    if name and family and family.end_of_patch < moment.now.date():
        evidence = {"image": name.name, "family": name.family, "end_of_patch": family.end_of_patch.isoformat()}
        detail = f"{name.name}: patches ended on {family.end_of_patch:%Y-%m-%d}"
        if family.end_of_availability:
            gone = family.end_of_availability < moment.now.date()
            evidence["end_of_availability"] = family.end_of_availability.isoformat()
            detail += f", availability {'ended' if gone else 'ends'} on {family.end_of_availability:%Y-%m-%d}"
        yield Finding(subject="image", detail=detail, evidence=evidence, fix=_anew(name.family, lifecycle))


@check(
    severity=Severity.HIGH,
    duty=Duty.LATEST_IMAGES,
    fix="Create the VM anew from a current image family; images are not upgraded in place.",
)
def image_unsupported_line(instance: Instance, image: Image, lifecycle: ImageLifecycle) -> Iterator[Finding]:
    """This Deep Learning VM is of an image line that is no longer made.

    Google's list of images names every family that is still made: Debian, CPU and TensorFlow images and older CUDA
    versions are not among them. Such a machine gets no newer image, and its driver and framework no patches. Where the
    list still gives the day on which a family ended, image-end-of-patch says so instead.
    """
    environment = image.environment.replace(".", "-")
    if _is_unnamed(instance, image, lifecycle) and (line := _line(environment, lifecycle)):
        # The image is a copy or unknown, but what was put into it tells.
        what, family = image.environment, environment
    else:
        name = _published(instance, image, lifecycle)
        if not name or name.project not in lifecycle.projects or _family(name, lifecycle):
            return
        what, family, line = name.name, name.family, _line(name.family, lifecycle)
    yield Finding(
        subject="image",
        detail=f"{what} is of a line that is no longer made" + (f": {line} images" if line else ""),
        evidence={"image": what, "line": line},
        fix=_anew(family, lifecycle),
    )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.LATEST_IMAGES,
    fix="Create the VM anew from the newest image of its family.",
)
def image_old(
    instance: Instance, image: Image, lifecycle: ImageLifecycle, config: Config, moment: Moment
) -> Iterator[Finding]:
    """The machine was made from an image that is older than the limit.

    New versions of Deep Learning VM, Workbench and accelerator images bring patched drivers, CUDA and frameworks,
    which the package manager often does not: much of it is not in packages or is held back. How old an image may be is
    image.maximum_age_days in the configuration. Families that have ended are left to the checks that say so.
    """
    name = _published(instance, image, lifecycle)
    if not name or (name.project in lifecycle.projects and _is_over(name, lifecycle, moment.now.date())):
        return
    if not name.date:
        raise CannotLookError(f"the name of the image {name.name} tells no date")
    limit = config.image.maximum_age_days
    if moment.now.date() - name.date > dt.timedelta(days=limit):
        yield Finding(
            subject="image",
            detail=f"{name.name} was made on {name.date:%Y-%m-%d}; the limit is {limit} days",
            evidence={"image": name.name, "project": name.project, "date": name.date.isoformat()},
            fix=f"Create the VM anew with --image-family={name.family} --image-project={name.project}"
            if name.family
            else "",
        )


@check(
    severity=Severity.LOW,
    duty=Duty.LATEST_IMAGES,
    fix="Create the VM anew from the newest image of its family.",
)
def image_newer_available(newest: NewestImage) -> Iterator[Finding]:
    """The image family has a newer image than this machine was made from.

    New images bring patched drivers, CUDA and frameworks, and each makes its predecessor deprecated. An image that is
    obsolete or deleted cannot make the machine again. It rests on the Compute API, which is asked only if
    image.compute_api is set in the configuration; otherwise nothing is judged here and image-old goes by the name.
    """
    if not newest.image or newest.image == newest.newest:
        return
    gone = newest.state in {"OBSOLETE", "DELETED"}
    if newest.newest:
        detail = f"{newest.image}: {newest.newest} is the newest image of {newest.family}"
    elif newest.family:
        detail = f"{newest.image}: {newest.family} has no image any more that is not deprecated"
    elif gone:
        detail = f"{newest.image} is no longer offered"
    else:
        return
    yield Finding(
        subject="image",
        detail=detail + (f"; this one is {newest.state.lower()}" if gone else ""),
        evidence={"image": newest.image, "newest": newest.newest, "family": newest.family, "state": newest.state},
        severity=Severity.MEDIUM if gone or not newest.newest else None,
        fix=f"Create the VM anew with --image-family={newest.family} --image-project={newest.project}"
        if newest.newest
        else "Create the VM anew from a current image family.",
    )


def _published(instance: Instance, image: Image, lifecycle: ImageLifecycle) -> ImageName | None:
    """The Deep Learning VM, Workbench or accelerator image; None where the machine was made from something else.

    A Deep Learning VM by what is on its disk, of which no published image is known, cannot be judged.
    """
    if _is_unnamed(instance, image, lifecycle):
        made_from = f"made from {instance.image}" if instance.image else "of which no image is known"
        raise CannotLookError(
            f"this is a Deep Learning VM {made_from}" + (f" ({instance.why})" if instance.why else ""),
            hint=f"Compare {image.environment or 'what is installed'} with {_PAGE}",
        )
    name = parse_image_name(instance.image)
    return name if name.project in _projects(lifecycle) else None


def _is_unnamed(instance: Instance, image: Image, lifecycle: ImageLifecycle) -> bool:
    """Whether this is a Deep Learning VM after a snapshot, a custom image, or one that nothing names."""
    return image.is_deep_learning and parse_image_name(instance.image).project not in _projects(lifecycle)


def _projects(lifecycle: ImageLifecycle) -> tuple[str, ...]:
    return lifecycle.projects + lifecycle.workbench_projects + lifecycle.accelerator_projects


def _family(name: ImageName, lifecycle: ImageLifecycle) -> ImageFamily | None:
    """The family's entry, None where it has ended on a day unknown; one that is newer than the table is an error."""
    entry = _entry(name.family, lifecycle)
    if not entry and not _has_ended_undated(name, lifecycle):
        raise CannotLookError(
            f"the table of images of {lifecycle.updated:%Y-%m-%d} does not know the family {name.family}",
            hint="A newer dlvmguard may know it.",
        )
    return entry


def _is_over(name: ImageName, lifecycle: ImageLifecycle, today: dt.date) -> bool:
    entry = _entry(name.family, lifecycle)
    return entry.end_of_patch < today if entry else _has_ended_undated(name, lifecycle)


def _entry(family: str, lifecycle: ImageLifecycle) -> ImageFamily | None:
    return next((entry for entry in lifecycle.families if all(_has(family, part) for part in entry.parts)), None)


def _has_ended_undated(name: ImageName, lifecycle: ImageLifecycle) -> bool:
    is_older_than_the_page = name.date is not None and name.date <= lifecycle.page_date
    return bool(_line(name.family, lifecycle)) or (is_older_than_the_page and name.family not in lifecycle.current)


def _line(family: str, lifecycle: ImageLifecycle) -> str:
    """The retired line that the family is of, empty if of none."""
    return next((line.name for line in lifecycle.retired if any(_has(family, part) for part in line.parts)), "")


def _has(family: str, part: str) -> bool:
    return f"-{part}-" in f"-{family}-"


def _anew(family: str, lifecycle: ImageLifecycle) -> str:
    """What to create the machine from instead: the current family of the same kind."""
    kind = family.partition("-")[0]
    current = next((each for each in lifecycle.current if each.startswith(f"{kind}-")), lifecycle.current[0])
    return f"Create the VM anew with --image-family={current} --image-project={lifecycle.projects[0]} (all: {_PAGE})"
