"""The instance's facts, over a real HTTP server that stands for the metadata server."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config, InstanceSection
from agent.facts.instance import DMI_PRODUCT, ExternalAddress, Instance, instance, parse_interfaces, parse_switch
from agent.model import CannotLookError
from tests.fakes.metadata import ACCOUNT, SCOPES, TOKEN, VALUES, Fault, MetadataServer
from tests.fakes.trees import plant

GOOGLE = {DMI_PRODUCT: "Google Compute Engine\n"}


def asking(server: MetadataServer, **settings: Any) -> Config:
    return Config(instance=InstanceSection(metadata_url=server.url, **{"timeout_seconds": 20.0, **settings}))


def seen(root: Path, server: MetadataServer, *, tree: Mapping[str, str] = GOOGLE, **settings: Any) -> Instance:
    return instance(plant(root, tree), asking(server, **settings))


def test_a_machine_of_another_maker_asks_nobody(tmp_path):
    with MetadataServer() as server:
        fact = seen(tmp_path, server, tree={DMI_PRODUCT: "Standard PC (Q35 + ICH9, 2009)\n"})
    assert not fact.on_google_cloud
    assert fact.why == "the machine calls itself Standard PC (Q35 + ICH9, 2009)"
    assert server.paths == []


def test_whoever_sets_detect_to_never_is_obeyed(tmp_path):
    with MetadataServer() as server:
        fact = seen(tmp_path, server, detect="never")
    assert (fact.on_google_cloud, fact.why) == (False, 'the setting instance.detect is "never"')
    assert server.paths == []


def test_whoever_sets_detect_to_always_is_obeyed(tmp_path):
    with MetadataServer() as server:
        assert seen(tmp_path, server, tree={DMI_PRODUCT: "KVM\n"}, detect="always").on_google_cloud


@pytest.mark.parametrize("tree", [{"/etc/": ""}, {DMI_PRODUCT: "\n"}], ids=["no DMI", "empty DMI"])
def test_a_machine_without_a_maker_is_where_the_server_says(tmp_path, tree):
    with MetadataServer() as server:
        assert seen(tmp_path, server, tree=tree).on_google_cloud


@pytest.mark.parametrize("kind", ["no-flavor", "hang", "reset"])
def test_a_machine_without_a_maker_and_without_a_metadata_server_is_elsewhere(tmp_path, kind):
    with MetadataServer(fault=Fault(kind)) as server:
        fact = seen(tmp_path, server, tree={"/etc/": ""})
    assert not fact.on_google_cloud
    assert fact.why.startswith("the machine names no maker and the metadata server ")
    assert len(server.paths) == 1


def test_a_machine_without_a_maker_where_nothing_listens_is_elsewhere(tmp_path):
    with MetadataServer() as server:
        pass
    assert not seen(tmp_path, server, tree={"/etc/": ""}).on_google_cloud


def test_a_machine_without_a_maker_and_with_a_refusing_metadata_server_is_unknown(tmp_path):
    with MetadataServer(fault=Fault("status", status=403)) as server, pytest.raises(CannotLookError, match="403"):
        seen(tmp_path, server, tree={"/etc/": ""})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_maker_that_may_not_be_read_makes_silence_unknown(tmp_path):
    host = plant(tmp_path, GOOGLE)
    (tmp_path / DMI_PRODUCT[1:]).chmod(0)
    with MetadataServer(fault=Fault("no-flavor")) as server, pytest.raises(CannotLookError):
        instance(host, asking(server))


def test_the_identity_is_read_to_the_last_digit(tmp_path):
    with MetadataServer() as server:
        fact = seen(tmp_path, server)
    assert (fact.project_id, fact.numeric_project_id) == ("vision-lab", "281234567890")
    assert (fact.name, fact.instance_id) == ("gpu-1", "9007199254740993123")
    assert (fact.zone, fact.machine_type) == ("us-central1-a", "a2-highgpu-1g")
    assert fact.image.endswith("/common-cu129-ubuntu-2404-nvidia-580-v20261016")
    assert fact.gaps == ()


def test_each_service_account_is_named_once_and_no_token_is_asked_for(tmp_path):
    with MetadataServer() as server:
        (account,) = seen(tmp_path, server).service_accounts
    assert (account.email, account.scopes) == (ACCOUNT, SCOPES)
    assert not [path for path in server.paths if "token" in path or "identity" in path]
    assert not [path for path in server.paths if "service-accounts" in path and "recursive" in path]


def test_a_machine_without_account_image_attributes_or_outside_address_has_none(tmp_path):
    values = {key: value for key, value in VALUES.items() if "service-accounts" not in key and "image" not in key}
    with MetadataServer(values) as server:
        fact = seen(tmp_path, server)
    assert (fact.service_accounts, fact.image, fact.external_addresses) == ((), "", ())
    assert (fact.os_login, fact.serial_port, fact.blocks_project_ssh_keys, fact.gaps) == (None, None, None, ())


def test_addresses_that_the_internet_reaches_are_told_from_the_others(tmp_path):
    interfaces = {
        "instance/network-interfaces/0/access-configs/0/external-ip": "34.66.1.2",
        "instance/network-interfaces/0/access-configs/0/type": "ONE_TO_ONE_NAT",
        "instance/network-interfaces/0/ipv6s": "fd20:a:b::1",
        "instance/network-interfaces/1/access-configs/0/external-ip": "",
        "instance/network-interfaces/1/ipv6s": "2600:1900:4000::7",
    }
    with MetadataServer({**VALUES, **interfaces}) as server:
        fact = seen(tmp_path, server)
    assert fact.external_addresses == (
        ExternalAddress(interface="nic0", address="34.66.1.2"),
        ExternalAddress(interface="nic1", address="2600:1900:4000::7"),
    )


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"instance/attributes/enable-oslogin": "TRUE"}, True),
        ({"project/attributes/enable-oslogin": "yes\n"}, True),
        ({"instance/attributes/enable-oslogin": "false", "project/attributes/enable-oslogin": "true"}, False),
        ({"instance/attributes/enable-oslogin": "perhaps", "project/attributes/enable-oslogin": "true"}, None),
    ],
)
def test_a_switch_of_the_instance_goes_before_that_of_the_project(tmp_path, attributes, expected):
    with MetadataServer({**VALUES, **attributes}) as server:
        assert seen(tmp_path, server).os_login is expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"instance/attributes/block-project-ssh-keys": "1"}, True),
        ({"instance/attributes/sshKeys": "someone:ssh-rsa AAAA"}, True),
        ({"project/attributes/block-project-ssh-keys": "TRUE"}, None),
    ],
)
def test_only_the_instance_itself_keeps_the_keys_of_the_project_out(tmp_path, attributes, expected):
    with MetadataServer({**VALUES, **attributes}) as server:
        assert seen(tmp_path, server).blocks_project_ssh_keys is expected


CANARIES = {
    f"{level}/attributes/{key}": f"CANARY-{level}-{key}"
    for level in ("instance", "project")
    for key in ("startup-script", "ssh-keys", "user-data", "enable-oslogin", "serial-port-enable", "db-password")
} | {"instance/attributes/block-project-ssh-keys": "CANARY-block"}


def test_attributes_are_known_by_name_and_their_values_never_kept(tmp_path):
    with MetadataServer({**VALUES, **CANARIES}) as server:
        fact = seen(tmp_path, server)
    assert "db-password" in fact.instance_attributes
    assert "ssh-keys" in fact.project_attributes
    assert "CANARY" not in msgspec.json.encode(fact).decode() + repr(fact)
    assert not [path for path in server.paths if "startup-script" in path or "db-password" in path]


@pytest.mark.parametrize("key", [key for key in VALUES if "network" not in key and "aliases" not in key])
def test_no_answer_of_any_form_is_quoted_in_an_error(tmp_path, key):
    with MetadataServer({**VALUES, key: f"CANARY secret words\n{TOKEN}\x1b[2J"}) as server:
        try:
            said = repr(seen(tmp_path, server))
        except CannotLookError as error:
            said = error.reason + error.hint
    assert "CANARY" not in said
    assert TOKEN not in said


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("html"), "unexpected form"),
        (Fault("no-flavor"), "is another web server"),
        (Fault("redirect"), "answered 302"),
        (Fault("huge"), "more than 262144 bytes"),
        (Fault("reset"), "could not be reached"),
        (Fault("status", status=403), "answered 403"),
        (Fault("status", status=404, below="instance/name"), "has no instance/name"),
        (Fault("status", status=500), "answered 500"),
        (Fault("status", status=429), "answered 429"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else "",
)
def test_a_google_machine_whose_server_fails_is_unknown(tmp_path, fault, reason):
    with MetadataServer(fault=fault) as server, pytest.raises(CannotLookError, match=reason):
        seen(tmp_path, server)
    assert "/elsewhere" not in server.paths


@pytest.mark.parametrize("kind", ["hang", "drip", "drip-headers"])
def test_a_server_that_never_ends_is_left_behind(tmp_path, kind):
    with (
        MetadataServer(fault=Fault(kind)) as server,
        pytest.raises(CannotLookError, match=r"did not answer in full within 0\.5 s"),
    ):
        seen(tmp_path, server, timeout_seconds=0.5)


@pytest.mark.parametrize("fault", [Fault("status", times=2), Fault("status", status=429, times=1)])
def test_a_server_that_was_busy_is_asked_again(tmp_path, fault):
    with MetadataServer(fault=fault) as server:
        assert seen(tmp_path, server).name == "gpu-1"


def test_a_connection_that_broke_is_made_again(tmp_path):
    with MetadataServer(fault=Fault("reset", times=2)) as server:
        assert seen(tmp_path, server).name == "gpu-1"


@pytest.mark.parametrize(
    ("below", "scope"),
    [
        ("instance/service-accounts", "service-account"),
        ("instance/network-interfaces", "external-address"),
        ("instance/image", "image"),
    ],
)
def test_a_part_that_is_refused_is_a_gap_and_not_an_absence(tmp_path, below, scope):
    with MetadataServer(fault=Fault("status", below=below, status=403)) as server:
        (gap,) = seen(tmp_path, server).gaps
    assert gap.scope == scope
    assert "answered 403" in gap.reason


def test_proxies_and_netrc_of_the_user_see_nothing(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password CANARY\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with MetadataServer() as proxy, MetadataServer() as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        assert seen(tmp_path, server).name == "gpu-1"
    assert proxy.paths == []


@pytest.mark.parametrize("text", ["TRUE", "true", "Y", "yes", "1", " True\n"])
def test_what_is_on(text):
    assert parse_switch(text) is True


@pytest.mark.parametrize("text", ["FALSE", "n", "No", "0"])
def test_what_is_off(text):
    assert parse_switch(text) is False


@given(st.text())
def test_any_text_is_a_switch_or_none(text):
    assert parse_switch(text) in {True, False, None}


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_is_a_list_of_interfaces_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert all(each.interface.startswith("nic") for each in parse_interfaces(text))
