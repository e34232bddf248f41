"""How the virtual machine is set up on Google Cloud: what it may do there and who may come in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from agent.facts.instance import Instance
from agent.model import Duty, Finding, Severity, check

# https://cloud.google.com/compute/docs/access/service-accounts#default_service_account
_DEFAULT_ACCOUNT = re.compile(r"\d+-compute@developer\.gserviceaccount\.com")
_FULL_ACCESS = "https://www.googleapis.com/auth/cloud-platform"


@check(
    severity=Severity.HIGH,
    duty=Duty.ACCESS,
    fix="Attach a service account of its own with the few roles it needs, or limit the scopes.",
)
def instance_service_account_full_access(instance: Instance) -> Iterator[Finding]:
    """The default service account has full access to the project's APIs.

    Every process on the machine can get this account's token from the metadata server, a notebook or a poisoned
    package as well as you. The default account often has the Editor role, and the scope cloud-platform lifts the only
    other limit: whoever runs code here then owns the project. CIS Google Cloud Foundations 4.2. The command limits the
    scopes and needs a restart of the machine; better still is an account of its own with the few roles it needs.
    """
    for account in instance.service_accounts:
        if _DEFAULT_ACCOUNT.fullmatch(account.email) and _FULL_ACCESS in account.scopes:
            stop, start = _command(instance, "stop"), _command(instance, "start")
            limit = _command(instance, "set-service-account", f"--service-account={account.email}", "--scopes=default")
            yield Finding(
                subject=f"service-account:{account.email}",
                detail=f"{account.email} is the default service account and has the scope cloud-platform",
                evidence={"email": account.email, "scope": _FULL_ACCESS},
                fix=f"{stop} && {limit} && {start}",
            )


@check(severity=Severity.MEDIUM, duty=Duty.ACCESS, fix="Set serial-port-enable to FALSE in the instance's metadata.")
def instance_serial_port_enabled(instance: Instance) -> Iterator[Finding]:
    """The interactive serial console can be reached from the internet.

    The serial console has no firewall and no list of allowed addresses: with a key and the names of project, zone and
    machine anybody can try from anywhere. It is meant for repairs and to be switched off after them. CIS Google Cloud
    Foundations 4.5.
    """
    if instance.serial_port:
        yield Finding(
            subject="serial-port",
            detail="the metadata switch serial-port-enable is on",
            evidence={"serial-port-enable": True},
            fix=_command(instance, "add-metadata", "--metadata=serial-port-enable=FALSE"),
        )


@check(severity=Severity.MEDIUM, duty=Duty.ACCESS, fix="Set enable-oslogin to TRUE in the instance's metadata.")
def instance_os_login_disabled(instance: Instance) -> Iterator[Finding]:
    """SSH access does not follow IAM: OS Login is off.

    Without OS Login the guest agent turns every SSH key in the metadata into a user with root rights, and such keys
    stay when people leave. With it, access follows IAM roles, ends with the account and can ask for a second factor.
    CIS Google Cloud Foundations 4.4. Switching it on ends access by metadata keys, so grant the role
    roles/compute.osLogin or roles/compute.osAdminLogin first.
    """
    if instance.on_google_cloud and not instance.os_login:
        yield Finding(
            subject="os-login",
            detail=f"the metadata switch enable-oslogin is {_said(instance.os_login)}",
            evidence={"enable-oslogin": _said(instance.os_login)},
            fix=_command(instance, "add-metadata", "--metadata=enable-oslogin=TRUE"),
        )


@check(severity=Severity.LOW, duty=Duty.ACCESS, fix="Set block-project-ssh-keys to TRUE in the instance's metadata.")
def instance_project_ssh_keys_allowed(instance: Instance) -> Iterator[Finding]:
    """SSH keys of the whole project open this machine, with root rights.

    A key in the project's metadata opens every machine that does not block such keys; one stolen laptop is then the
    whole fleet. CIS Google Cloud Foundations 4.3. With OS Login on, metadata keys do nothing and this check is quiet;
    while the project holds no key, it is for information only.
    """
    if instance.on_google_cloud and not instance.os_login and not instance.blocks_project_ssh_keys:
        has_keys = not {"ssh-keys", "sshKeys"}.isdisjoint(instance.project_attributes)
        yield Finding(
            subject="project-ssh-keys",
            detail="block-project-ssh-keys is off; the project " + ("holds SSH keys" if has_keys else "holds none now"),
            evidence={
                "block-project-ssh-keys": _said(instance.blocks_project_ssh_keys),
                "project-holds-keys": has_keys,
            },
            severity=None if has_keys else Severity.INFO,
            fix=_command(instance, "add-metadata", "--metadata=block-project-ssh-keys=TRUE"),
        )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.APPLICATIONS,
    fix="Remove the external address and come in through Identity-Aware Proxy or a VPN.",
)
def instance_external_address(instance: Instance) -> Iterator[Finding]:
    """The machine has an external address.

    With an external address only the firewall stands between the internet and every notebook, dashboard and database
    that listens here. Through Identity-Aware Proxy (gcloud compute ssh --tunnel-through-iap) SSH and notebooks work
    without one, and Cloud NAT gives the way out. CIS Google Cloud Foundations 4.9.
    """
    for each in instance.external_addresses:
        is_ipv6 = ":" in each.address
        interface = f"--network-interface={each.interface}"
        yield Finding(
            # The interface and not the address, which may be another after each start of the machine.
            subject=f"external-address:{each.interface}" + (":ipv6" if is_ipv6 else ""),
            detail=f"{each.interface} is reachable from outside as {each.address}",
            evidence={"interface": each.interface, "address": each.address},
            fix=_command(instance, "network-interfaces update", interface, "--stack-type=IPV4_ONLY")
            if is_ipv6
            # The console names what it makes "External NAT", gcloud "external-nat"; the metadata server tells neither.
            else _command(instance, "delete-access-config", interface)
            + ' (with --access-config-name="External NAT" if the machine was made in the console)',
        )


def _said(switch: bool | None) -> str:
    return "not set" if switch is None else "on" if switch else "off"


def _command(instance: Instance, verb: str, *flags: str) -> str:
    """The gcloud command for this very instance."""
    where = f"--project={instance.project_id}", f"--zone={instance.zone}"
    return f"gcloud compute instances {verb} {shlex.join([instance.name, *where, *flags])}"
