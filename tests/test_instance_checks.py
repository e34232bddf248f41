"""The checks of the instance, called with values."""

from __future__ import annotations

from typing import Any

import pytest

from agent.checks.instance import (
    instance_external_address,
    instance_os_login_disabled,
    instance_project_ssh_keys_allowed,
    instance_serial_port_enabled,
    instance_service_account_full_access,
)
from agent.facts.instance import ExternalAddress, Instance, ServiceAccount
from agent.model import Severity

CHECKS = [
    instance_external_address,
    instance_os_login_disabled,
    instance_project_ssh_keys_allowed,
    instance_serial_port_enabled,
    instance_service_account_full_access,
]
DEFAULT = "281234567890-compute@developer.gserviceaccount.com"
OWN = "training@vision-lab.iam.gserviceaccount.com"
FULL = "https://www.googleapis.com/auth/cloud-platform"
WRITE_LOGS = "https://www.googleapis.com/auth/logging.write"
HERE = "gpu-1 --project=vision-lab --zone=us-central1-a"


def an_instance(**fields: Any) -> Instance:
    identity = {"project_id": "vision-lab", "name": "gpu-1", "zone": "us-central1-a"}
    return Instance(on_google_cloud=True, **{**identity, "os_login": True, **fields})


def with_account(email: str, *scopes: str) -> Instance:
    return an_instance(service_accounts=(ServiceAccount(email=email, scopes=scopes),))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_elsewhere_than_on_google_cloud_all_are_quiet(check):
    assert list(check(Instance(on_google_cloud=False, why="the machine calls itself KVM"))) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_a_machine_in_good_order_is_quiet(check):
    assert list(check(an_instance(serial_port=False, project_attributes=("ssh-keys",)))) == []


@pytest.mark.parametrize(
    "account",
    [with_account(DEFAULT, WRITE_LOGS), with_account(OWN, FULL), with_account(DEFAULT)],
    ids=["default account with narrow scopes", "own account with the full scope", "no scopes"],
)
def test_an_account_that_something_limits_is_quiet(account):
    assert list(instance_service_account_full_access(account)) == []


def test_the_default_account_with_full_access_is_a_finding_with_its_command():
    (finding,) = instance_service_account_full_access(with_account(DEFAULT, WRITE_LOGS, FULL))
    assert finding.subject == f"service-account:{DEFAULT}"
    assert finding.fix == (
        f"gcloud compute instances stop {HERE}"
        f" && gcloud compute instances set-service-account {HERE} --service-account={DEFAULT} --scopes=default"
        f" && gcloud compute instances start {HERE}"
    )


def test_an_open_serial_console_is_a_finding_with_its_command():
    (finding,) = instance_serial_port_enabled(an_instance(serial_port=True))
    assert finding.subject == "serial-port"
    assert finding.fix == f"gcloud compute instances add-metadata {HERE} --metadata=serial-port-enable=FALSE"


@pytest.mark.parametrize(("switch", "said"), [(None, "not set"), (False, "off")])
def test_os_login_that_is_not_on_is_a_finding_with_its_command(switch, said):
    (finding,) = instance_os_login_disabled(an_instance(os_login=switch))
    assert finding.detail == f"the metadata switch enable-oslogin is {said}"
    assert finding.fix == f"gcloud compute instances add-metadata {HERE} --metadata=enable-oslogin=TRUE"


def test_project_keys_do_not_matter_where_os_login_ignores_them_or_the_instance_blocks_them():
    keys = {"project_attributes": ("ssh-keys",)}
    assert list(instance_project_ssh_keys_allowed(an_instance(os_login=True, **keys))) == []
    assert (
        list(instance_project_ssh_keys_allowed(an_instance(os_login=None, blocks_project_ssh_keys=True, **keys))) == []
    )


@pytest.mark.parametrize(
    ("attributes", "severity"), [(("ssh-keys",), None), (("sshKeys",), None), (("title",), Severity.INFO)]
)
def test_project_keys_that_are_let_in_are_a_finding_which_weighs_less_while_there_are_none(attributes, severity):
    (finding,) = instance_project_ssh_keys_allowed(an_instance(os_login=False, project_attributes=attributes))
    assert (finding.subject, finding.severity) == ("project-ssh-keys", severity)
    assert finding.fix == f"gcloud compute instances add-metadata {HERE} --metadata=block-project-ssh-keys=TRUE"


def test_an_external_address_is_a_finding_of_its_interface():
    addresses = (
        ExternalAddress(interface="nic0", address="34.66.1.2"),
        ExternalAddress(interface="nic0", address="2600:1900:4000::7"),
    )
    first, second = instance_external_address(an_instance(external_addresses=addresses))
    assert (first.subject, second.subject) == ("external-address:nic0", "external-address:nic0:ipv6")
    assert first.fix.startswith(f"gcloud compute instances delete-access-config {HERE} --network-interface=nic0")
    assert second.fix == (
        f"gcloud compute instances network-interfaces update {HERE} --network-interface=nic0 --stack-type=IPV4_ONLY"
    )


def test_a_name_that_would_be_a_command_is_quoted():
    (finding,) = instance_serial_port_enabled(an_instance(serial_port=True, name="gpu-1; reboot"))
    assert "'gpu-1; reboot'" in finding.fix
