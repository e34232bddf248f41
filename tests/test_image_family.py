"""What the Compute API is asked about the machine's image, and what is made of its answers."""

from __future__ import annotations

import pytest

from agent.checks.image import image_newer_available
from agent.config import Config, ConfigError, ImageSection, InstanceSection, parse
from agent.facts.image_family import NewestImage, image_family
from agent.host import Host
from agent.model import CannotLookError, Severity
from tests.fakes.compute import FAMILY, NEW, OLD, PROJECT, ComputeApi, an_image
from tests.fakes.metadata import ACCOUNT, TOKEN, VALUES, Fault, MetadataServer

SCOPE = "https://www.googleapis.com/auth/compute.readonly"
ALLOWED = {**VALUES, **{f"instance/service-accounts/{name}/scopes": SCOPE for name in ("default", ACCOUNT)}}
CURRENT = {OLD: an_image(state="DEPRECATED"), f"family/{FAMILY}": an_image(NEW)}


def configured(metadata: MetadataServer, api: ComputeApi) -> Config:
    return Config(
        instance=InstanceSection(metadata_url=metadata.url, timeout_seconds=5),
        image=ImageSection(compute_api=True, compute_endpoint=api.url),
    )


def looked(answers, *, values=ALLOWED, **faults) -> NewestImage:
    with MetadataServer(values) as metadata, ComputeApi(answers, **faults) as api:
        return image_family(Host(), configured(metadata, api))


def test_nobody_is_asked_unless_it_is_configured():
    with MetadataServer(ALLOWED) as metadata, ComputeApi(CURRENT) as api:
        config = Config(instance=InstanceSection(metadata_url=metadata.url))
        fact = image_family(Host(), config)
        assert (metadata.paths, api.paths) == ([], [])
    assert fact == NewestImage(asked=False)
    assert list(image_newer_available(fact)) == []


def test_the_newest_image_is_quiet():
    fact = looked({OLD: an_image(), f"family/{FAMILY}": an_image()})
    assert fact == NewestImage(asked=True, project=PROJECT, image=OLD, family=FAMILY, state="ACTIVE", newest=OLD)
    assert list(image_newer_available(fact)) == []


def test_a_machine_that_was_made_from_no_image_is_quiet():
    values = {key: value for key, value in ALLOWED.items() if key != "instance/image"}
    fact = looked(CURRENT, values=values)
    assert fact == NewestImage(asked=True)
    assert list(image_newer_available(fact)) == []


def test_an_image_of_no_family_is_quiet():
    assert list(image_newer_available(looked({OLD: an_image(family="")}))) == []


def test_a_newer_image_is_a_finding_with_its_name():
    (finding,) = image_newer_available(looked(CURRENT))
    assert finding.subject == "image"
    assert NEW in finding.detail
    assert "deprecated" not in finding.detail  # which each new image makes of the one before
    assert finding.severity is None
    assert f"--image-family={FAMILY} --image-project={PROJECT}" in finding.fix


@pytest.mark.parametrize("state", ["OBSOLETE", "DELETED"])
def test_an_image_that_cannot_make_the_machine_again_weighs_more(state):
    (finding,) = image_newer_available(looked({**CURRENT, OLD: an_image(state=state)}))
    assert finding.severity is Severity.MEDIUM
    assert f"this one is {state.lower()}" in finding.detail


def test_a_family_that_has_no_image_any_more_is_a_finding():
    (finding,) = image_newer_available(looked({OLD: an_image(state="DEPRECATED")}))
    assert "has no image any more" in finding.detail
    assert finding.severity is Severity.MEDIUM


def test_without_a_scope_for_it_no_token_is_asked_for():
    with MetadataServer(VALUES) as metadata, ComputeApi(CURRENT) as api:
        with pytest.raises(CannotLookError, match="no scope") as caught:
            image_family(Host(), configured(metadata, api))
        assert not any("token" in path for path in metadata.paths)
        assert api.paths == []
    assert "compute.images.get" in caught.value.hint


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 302])
def test_a_refusal_is_not_evaluated_and_says_what_would_be_needed(status):
    with pytest.raises(CannotLookError, match=f"not evaluated: it answered {status}") as caught:
        looked(CURRENT, status=status)
    assert "compute.images.get" in caught.value.hint


def test_an_image_that_the_api_does_not_know_is_not_evaluated():
    with pytest.raises(CannotLookError, match="not evaluated: it has no"):
        looked({f"family/{FAMILY}": an_image(NEW)})


def test_an_active_image_whose_family_is_not_known_is_not_evaluated():
    with pytest.raises(CannotLookError, match="not evaluated: it has no"):
        looked({OLD: an_image()})


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in</html>",
        b"[]",
        b'{"name": 1}',
        b'{"name": "x", "deprecated": []}',
        b"{" + b" " * 300_000,
        b"\xff\xfe",
        b'{"x": ' + b"[" * 100_000,
        b'{"name": "../../../etc"}',
        b'{"name": "a", "family": "b/../c"}',
        b'{"name": "a", "deprecated": {"state": "\\u001b[2J"}}',
    ],
)
def test_an_answer_of_another_form_is_not_evaluated_and_not_repeated(body):
    with pytest.raises(CannotLookError, match="not evaluated") as caught:
        looked({}, body=body)
    assert "Sign in" not in caught.value.reason


def test_a_server_that_is_not_there_is_not_evaluated():
    with ComputeApi({}) as gone:
        pass
    with MetadataServer(ALLOWED) as metadata, pytest.raises(CannotLookError, match="could not be reached") as caught:
        image_family(Host(), configured(metadata, gone))
    assert TOKEN not in caught.value.reason


def test_a_metadata_server_that_hangs_is_given_up():
    with MetadataServer(ALLOWED, fault=Fault("hang", below="instance/image")) as metadata, ComputeApi({}) as api:
        config = configured(metadata, api)
        section = InstanceSection(metadata_url=metadata.url, timeout_seconds=0.1)
        with pytest.raises(CannotLookError, match="did not answer in full"):
            image_family(Host(), Config(instance=section, image=config.image))


@pytest.mark.parametrize("token", ["", "two words", "new\r\nHost: x", "[1]"])
def test_a_token_that_is_none_goes_nowhere(token):
    values = {key: value for key, value in ALLOWED.items() if not key.endswith("default/email")}
    values["instance/service-accounts/default/token"] = '{"access_token": "' + token.replace("\r\n", "\\r\\n") + '"}'
    with MetadataServer(values) as metadata, ComputeApi(CURRENT) as api:
        with pytest.raises(CannotLookError, match="unexpected form") as caught:
            image_family(Host(), configured(metadata, api))
        assert api.paths == []
    assert not token or token not in caught.value.reason


@pytest.mark.parametrize(
    "endpoint", ["http://compute.googleapis.com", "http://10.0.0.1:8080", "ftp://x", "", "https://user@host"]
)
def test_the_token_goes_over_https_or_stays_on_the_machine(endpoint):
    with pytest.raises(ConfigError, match="compute_endpoint"):
        parse(f'[image]\ncompute_endpoint = "{endpoint}"\n'.encode(), path="config.toml")


def test_a_restricted_endpoint_is_allowed():
    config = parse(b'[image]\ncompute_endpoint = "https://compute-x.p.googleapis.com"\n', path="config.toml")
    assert config.image.compute_endpoint == "https://compute-x.p.googleapis.com"
