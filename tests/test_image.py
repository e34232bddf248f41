"""What the image left on disk and what its name tells, and the checks of its age."""

from __future__ import annotations

import datetime as dt
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import knowledge
from agent.checks.image import image_end_of_patch, image_old, image_unsupported_line
from agent.config import Config, ImageSection
from agent.evaluate import Facts, evaluate
from agent.facts.image import Image, ImageName, image, parse_banner, parse_image_name
from agent.facts.instance import Instance
from agent.knowledge import ImageLifecycle
from agent.model import CannotLookError, Judged, Moment, Seen, Unknown
from tests.fakes.trees import NOW, plant

CHECKS = (image_end_of_patch, image_unsupported_line, image_old)
LIFECYCLE = knowledge.load(ImageLifecycle)
BANNER = """======================================
Welcome to the Google Deep Learning VM
======================================

Version: tf2-gpu.2-11.m102
Based on: Debian GNU/Linux 10 (buster) (GNU/Linux 4.19.0-23-cloud-amd64 x86_64)

Resources:
 * Google Deep Learning Platform StackOverflow
"""
DEBIAN = {
    "/opt/deeplearning/metadata/env_version": "tf2-gpu.2-11.m102\n",
    "/opt/deeplearning/metadata/env_uri": "gcr.io/deeplearning-platform-release/tf2-gpu.2-11:m102\n",
    "/opt/c2d/c2d-startup": "",
    "/usr/bin/google_guest_agent": "",
    "/etc/motd": BANNER,
}


def test_a_machine_of_another_kind_has_no_marker(tmp_path):
    fact = image(plant(tmp_path, {"/etc/motd": "Welcome\n", "/opt/": ""}), Config())
    assert fact == Image()
    assert not fact.is_deep_learning


def test_a_deep_learning_vm_is_known_by_what_is_on_its_disk(tmp_path):
    fact = image(plant(tmp_path, DEBIAN), Config())
    assert (fact.environment, fact.version) == ("tf2-gpu.2-11.m102", "tf2-gpu.2-11.m102")
    assert fact.container == "gcr.io/deeplearning-platform-release/tf2-gpu.2-11:m102"
    assert fact.based_on.startswith("Debian GNU/Linux 10 (buster)")
    assert fact.places == ("/opt/deeplearning", "/opt/c2d", "/usr/bin/google_guest_agent")


@pytest.mark.parametrize("marker", DEBIAN)
def test_any_one_marker_may_be_missing(tmp_path, marker):
    tree = {path: content for path, content in DEBIAN.items() if path != marker}
    fact = image(plant(tmp_path, tree), Config())
    assert fact.is_deep_learning
    assert fact.gaps == ()


def test_a_google_machine_with_gpu_drivers_is_no_deep_learning_vm(tmp_path):
    fact = image(plant(tmp_path, {"/opt/google/cuda-installer/": "", "/usr/bin/google_guest_agent": ""}), Config())
    assert fact.places == ("/opt/google/cuda-installer", "/usr/bin/google_guest_agent")
    assert not fact.is_deep_learning


def test_a_marker_that_is_a_trap_is_a_gap(tmp_path):
    host = plant(tmp_path, {"/opt/deeplearning/metadata/": ""})
    os.mkfifo(tmp_path / "opt/deeplearning/metadata/env_version")
    (gap,) = image(host, Config()).gaps
    assert "not a regular file" in gap.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every directory")
def test_a_directory_that_may_not_be_searched_is_a_gap_and_not_an_absence(tmp_path):
    host = plant(tmp_path, DEBIAN)
    (tmp_path / "opt").chmod(0)
    try:
        assert image(host, Config()).gaps
    finally:
        (tmp_path / "opt").chmod(0o700)


def test_what_a_marker_says_is_shown_on_one_line_and_cut(tmp_path):
    fact = image(plant(tmp_path, {"/opt/deeplearning/metadata/env_version": b"\x1b[2J\xff" + b"x" * 100_000}), Config())
    assert fact.environment.isprintable()
    assert len(fact.environment) < 400


@given(st.text())
def test_any_text_is_a_banner_or_none(text):
    assert parse_banner(text) == (False, "", "")
    assert parse_banner(f"Google Deep Learning VM\n{text}")[0]


@pytest.mark.parametrize(
    ("name", "family", "date"),
    [
        ("common-cu129-ubuntu-2404-nvidia-580-v20260129", "common-cu129-ubuntu-2404-nvidia-580", "2026-01-29"),
        ("tf-2-3-cu110-notebooks-v20210527-debian-10", "tf-2-3-cu110-notebooks-debian-10", "2021-05-27"),
        ("pytorch-2-0-gpu-v20230822-debian-11-py310", "pytorch-2-0-gpu-debian-11-py310", "2023-08-22"),
        ("c0-deeplearning-common-cu121-v20240627-debian-11-py310", "common-cu121-debian-11-py310", "2024-06-27"),
        ("common-cu121-v20240514-ubuntu-2204-py310", "common-cu121-ubuntu-2204-py310", "2024-05-14"),
        ("dataflow-container-v20220825", "dataflow-container", "2022-08-25"),
        ("20260301-1200-rc0", "", "2026-03-01"),
        ("pytorch-latest-gpu", "pytorch-latest-gpu", None),
        ("common-cu129-v20261399", "common-cu129", None),
    ],
)
def test_a_name_tells_family_and_date(name, family, date):
    day = dt.date.fromisoformat(date) if date else None
    assert parse_image_name(f"projects/ml-images/global/images/{name}") == ImageName(
        project="ml-images", name=name, family=family, date=day
    )
    assert parse_image_name(name).project == ""


@given(st.text() | st.from_regex(r"(projects/[a-z]*/)?[a-z/-]*-v[0-9]{8}[a-z-]*"))
def test_any_text_is_a_name(text):
    assert parse_image_name(text).name in text


@given(st.from_regex(r"[a-uw-z0-9]{1,9}(-[a-uw-z0-9]{1,9}){0,4}", fullmatch=True), st.dates(dt.date(1970, 1, 1)))
def test_a_name_made_of_family_and_date_gives_them_back(family, date):
    name = parse_image_name(f"projects/p/global/images/{family}-v{date:%Y%m%d}")
    assert (name.family, name.date) == (family, date)


def from_image(name: str, project: str = "deeplearning-platform-release") -> Instance:
    return Instance(on_google_cloud=True, image=f"projects/{project}/global/images/{name}" if name else "")


def seen(instance: Instance | Unknown, marks: Image) -> Facts:
    return {Instance: Seen(fact=instance, taken=NOW.now), Image: Seen(fact=marks, taken=NOW.now)}


def findings(
    instance: Instance, marks: Image | None = None, *, moment: Moment = NOW, days: int = 120
) -> dict[str, Judged]:
    """What all checks say, by check."""
    outcomes = evaluate(
        CHECKS,
        seen(instance, marks or Image()),
        Config(image=ImageSection(maximum_age_days=days)),
        moment,
    )
    assert not [unknown for outcome in outcomes for unknown in outcome.unknowns]
    return {outcome.check: finding for outcome in outcomes for finding in outcome.findings}


@pytest.mark.parametrize(
    "instance",
    [
        Instance(on_google_cloud=False, why="the machine calls itself KVM"),
        from_image("debian-12-bookworm-v20200101", "debian-cloud"),
        from_image("golden-v20200101", "vision-lab"),
        from_image(""),
        from_image("common-cu129-ubuntu-2404-nvidia-580-v20261016"),
        from_image("pytorch-2-9-cu129-ubuntu-2204-nvidia-580-v20261016", "ml-images"),
        from_image("20261001-1200-rc1", "cloud-notebooks-managed"),
        from_image("ubuntu-accelerator-2404-amd64-with-nvidia-580-v20261001", "ubuntu-os-accelerator-images"),
    ],
    ids=lambda instance: instance.image or instance.why or "no image",
)
def test_other_machines_and_current_images_are_quiet(instance):
    assert findings(instance) == {}


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        (
            "common-cu128-ubuntu-2204-nvidia-570-v20260301",
            "patches ended on 2026-04-13, availability ends on 2027-04-13",
        ),
        ("common-cu124-v20250301-debian-11-py310", "patches ended on 2025-04-01, availability ended on 2026-04-01"),
        (
            "pytorch-2-4-cu124-v20250701-debian-11-py310",
            "patches ended on 2025-07-24, availability ended on 2026-07-24",
        ),
        ("tf-2-17-cu123-v20250701-debian-11", "patches ended on 2025-07-11, availability ended on 2026-07-11"),
    ],
)
@pytest.mark.parametrize("project", LIFECYCLE.projects)
def test_a_family_past_its_end_of_patch_is_one_finding(name, detail, project):
    (finding,) = findings(from_image(name, project)).values()
    assert (finding.subject, finding.detail) == ("image", f"{name}: {detail}")
    assert "--image-family=" in finding.fix


def test_the_last_day_of_patches_is_still_well():
    instance = from_image("common-cu129-ubuntu-2404-nvidia-580-v20280801")
    last, after = (Moment(now=dt.datetime(2028, 8, day, tzinfo=dt.timezone.utc)) for day in (4, 5))
    assert findings(instance, moment=last) == {}
    assert list(findings(instance, moment=after)) == ["image-end-of-patch"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tf-2-3-cu110-notebooks-v20210527-debian-10", "Debian"),
        ("common-cpu-v20231105", "CPU"),
        ("tf2-latest-gpu-v20220316", "TensorFlow"),
        ("common-cu121-v20240514-ubuntu-2204-py310", ""),
        ("pytorch-latest-gpu-v20220806", ""),
    ],
)
def test_a_line_that_is_no_longer_made_is_one_finding(name, line):
    assert {check: finding.evidence for check, finding in findings(from_image(name)).items()} == {
        "image-unsupported-line": {"image": name, "line": line}
    }


def test_the_replacement_is_a_current_family_of_the_same_kind():
    (finding,) = findings(from_image("pytorch-latest-gpu-v20220806")).values()
    assert "--image-family=pytorch-2-9-cu129-ubuntu-2404-nvidia-580" in finding.fix


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("common-cu129-ubuntu-2404-nvidia-580-v20260626", "ml-images"),
        ("20260301-1200-rc0", "cloud-notebooks-managed"),
        ("ubuntu-accelerator-2404-amd64-with-nvidia-580-v20260101", "ubuntu-os-accelerator-images"),
    ],
)
def test_an_image_older_than_the_limit_is_a_finding(name, project):
    assert list(findings(from_image(name, project))) == ["image-old"]
    assert findings(from_image(name, project), days=3650) == {}


def test_what_is_said_of_an_old_image_does_not_change_from_day_to_day():
    instance = from_image("common-cu129-ubuntu-2404-nvidia-580-v20260129")
    assert findings(instance) == findings(instance, moment=Moment(now=NOW.now + dt.timedelta(days=1)))


def test_a_family_newer_than_the_table_is_unknown():
    instance = from_image("common-cu131-ubuntu-2604-nvidia-610-v20261101")
    with pytest.raises(CannotLookError, match="does not know the family common-cu131-ubuntu-2604-nvidia-610"):
        list(image_end_of_patch(instance, Image(), LIFECYCLE, NOW))
    assert list(image_old(instance, Image(), LIFECYCLE, Config(), NOW)) == []


@pytest.mark.parametrize("instance", [from_image(""), from_image("golden-7", "vision-lab")], ids=["none", "custom"])
@pytest.mark.parametrize("marks", [Image(environment="common-cu113.m98"), Image(banner=True)], ids=["file", "banner"])
def test_a_deep_learning_vm_of_which_no_image_is_known_is_unknown_to_every_check(instance, marks):
    for outcome in evaluate(CHECKS, seen(instance, marks), Config(), NOW):
        (unknown,) = outcome.unknowns
        assert unknown.reason.startswith("this is a Deep Learning VM ")


def test_without_the_metadata_server_every_check_is_unknown():
    facts = seen(Unknown(reason="the metadata server gave no answer"), Image())
    assert all(outcome.unknowns for outcome in evaluate(CHECKS, facts, Config(), NOW))


def test_what_is_in_a_custom_image_tells_of_a_line_that_is_no_longer_made():
    (finding,) = image_unsupported_line(
        from_image("golden-7", "vision-lab"), Image(environment="tf2-gpu.2-11.m102"), LIFECYCLE
    )
    assert finding.evidence == {"image": "tf2-gpu.2-11.m102", "line": "TensorFlow"}


def test_every_current_family_of_the_table_has_its_entry():
    for family in LIFECYCLE.current:
        assert any(all(f"-{part}-" in f"-{family}-" for part in entry.parts) for entry in LIFECYCLE.families)
