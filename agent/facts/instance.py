"""The virtual machine as Google Cloud describes it: identity, service accounts, addresses, access switches.

The values of attributes are where people put passwords and tokens, so none is ever kept: their names are, and of
three well-known switches whether they are on.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.config import Config, InstanceSection
from agent.host import Host, shown
from agent.metadata import MetadataError, MetadataServer, within
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

T = TypeVar("T")

DMI_PRODUCT = "/sys/class/dmi/id/product_name"
"""Starts with "Google" on Compute Engine: https://cloud.google.com/compute/docs/instances/detect-compute-engine"""

_DETECTION_SECONDS = 1.0
_TRUE = {"true", "y", "yes", "1"}
_FALSE = {"false", "n", "no", "0"}


class ServiceAccount(Value, frozen=True, kw_only=True):
    """An identity that every process on the machine may use, within its scopes."""

    email: str
    scopes: tuple[str, ...]


class ExternalAddress(Value, frozen=True, kw_only=True):
    """An address that the internet can reach, and the interface (``nic0``) that has it."""

    interface: str
    address: str


class Instance(Fact, frozen=True, kw_only=True):
    """What the metadata server says. Elsewhere than on Google Cloud all is empty and ``why`` says how that is known.

    A switch is None where neither the instance nor its project sets it to a boolean. ``image`` is
    ``projects/PROJECT/global/images/NAME``, empty where the boot disk came from no image.
    """

    on_google_cloud: bool
    why: str = ""
    project_id: str = ""
    numeric_project_id: str = ""
    instance_id: str = ""
    name: str = ""
    zone: str = ""
    machine_type: str = ""
    image: str = ""
    service_accounts: tuple[ServiceAccount, ...] = ()
    external_addresses: tuple[ExternalAddress, ...] = ()
    instance_attributes: tuple[str, ...] = ()
    project_attributes: tuple[str, ...] = ()
    os_login: bool | None = None
    blocks_project_ssh_keys: bool | None = None
    serial_port: bool | None = None


def parse_switch(text: str) -> bool | None:
    """A boolean as the metadata server spells it; anything else counts as not set, as for Google's guest agent.

    Spelling: https://cloud.google.com/compute/docs/metadata/setting-custom-metadata#boolean
    """
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


class _AccessConfiguration(msgspec.Struct, rename="camel"):
    external_ip: str = ""


class _Interface(msgspec.Struct, rename="camel"):
    access_configs: tuple[_AccessConfiguration, ...] = ()
    ipv6s: tuple[str, ...] = ()


def parse_interfaces(text: str) -> tuple[ExternalAddress, ...]:
    """The external addresses among the network interfaces; ValueError if the text is no such list.

    An IPv6 address is external where it is global: internal ones are unique local addresses, which are not routed.
    Keys: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys
    """
    interfaces = msgspec.json.decode(text, type=tuple[_Interface, ...])
    return tuple(
        ExternalAddress(interface=f"nic{number}", address=str(address))
        for number, interface in enumerate(interfaces)
        for address in (
            *(ipaddress.ip_address(each.external_ip) for each in interface.access_configs if each.external_ip),
            *filter(lambda address: address.is_global, map(ipaddress.ip_address, interface.ipv6s)),
        )
    )


@probe(every=dt.timedelta(minutes=15), network=True)
def instance(host: Host, config: Config) -> Instance:
    """The virtual machine as Google Cloud describes it."""
    section = config.instance
    certain, elsewhere = _whereabouts(host, section)
    if elsewhere:
        return Instance(on_google_cloud=False, why=elsewhere)
    return within(section.timeout_seconds, lambda: _asked(section.metadata_url, certain=certain))


def _whereabouts(host: Host, section: InstanceSection) -> tuple[bool, str]:
    """Whether this is certainly a Google machine; and if it certainly is none, why. If neither, the network must tell.

    A maker that may not be read counts as Google, so that a silent server is Unknown and not a no.
    """
    if section.detect == "never":
        return False, 'the setting instance.detect is "never"'
    if section.detect == "always":
        return True, ""
    try:
        product = host.line(DMI_PRODUCT)
    except AbsentError:
        return False, ""
    except CannotLookError:
        return True, ""
    if not product or product.startswith("Google"):
        return bool(product), ""
    return False, f"the machine calls itself {shown(product[:100])}"


def _asked(url: str, *, certain: bool) -> Instance:
    import requests  # noqa: PLC0415 -- slow to import, which only a machine that may be Google's should pay

    with requests.Session() as session:
        server = MetadataServer(url, session)
        if not certain:
            try:
                server.once("project/project-id", seconds=_DETECTION_SECONDS)
            except MetadataError as error:
                if not error.stranger:
                    raise
                return Instance(on_google_cloud=False, why=f"the machine names no maker and {error.reason}")
        return _described(server)


def _described(server: MetadataServer) -> Instance:
    gaps: list[Unknown] = []
    of_instance, of_project = server.names("instance/attributes"), server.names("project/attributes")
    return Instance(
        on_google_cloud=True,
        project_id=server.value("project/project-id"),
        numeric_project_id=server.value("project/numeric-project-id"),
        instance_id=server.value("instance/id"),
        name=server.value("instance/name"),
        zone=_last(server.value("instance/zone")),
        machine_type=_last(server.value("instance/machine-type")),
        image=_part(lambda: _image(server), "", gaps, scope="image"),
        service_accounts=_part(lambda: _service_accounts(server), (), gaps, scope="service-account"),
        external_addresses=_part(lambda: _external_addresses(server), (), gaps, scope="external-address"),
        instance_attributes=of_instance,
        project_attributes=of_project,
        os_login=_switch(server, "enable-oslogin", instance=of_instance, project=of_project),
        blocks_project_ssh_keys=_blocks_project_ssh_keys(server, of_instance),
        serial_port=_switch(server, "serial-port-enable", instance=of_instance, project=of_project),
        gaps=tuple(gaps),
    )


def _part(look: Callable[[], T], nothing: T, gaps: list[Unknown], *, scope: str) -> T:
    """A part of the description without which the rest is still of use; a gap where it cannot be seen."""
    try:
        return look()
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=scope))
        return nothing


def _last(path: str) -> str:
    """``projects/1/zones/us-central1-a`` as ``us-central1-a``."""
    return path.rpartition("/")[2]


def _image(server: MetadataServer) -> str:
    try:
        return "".join(server.words("instance/image")[:1])
    except AbsentError:
        return ""


def _service_accounts(server: MetadataServer) -> tuple[ServiceAccount, ...]:
    """Each account once: ``default`` is another name for one of them."""
    accounts: dict[str, ServiceAccount] = {}
    for name in server.names("instance/service-accounts"):
        place = f"instance/service-accounts/{_last(name)}"
        email = server.value(f"{place}/email")
        if email not in accounts:
            accounts[email] = ServiceAccount(email=email, scopes=server.words(f"{place}/scopes"))
    return tuple(accounts.values())


def _external_addresses(server: MetadataServer) -> tuple[ExternalAddress, ...]:
    key = "instance/network-interfaces/"
    try:
        return parse_interfaces(server.text(f"{key}?recursive=true&alt=json"))
    except ValueError as error:
        raise MetadataError(f"gave an answer of unexpected form for {key}") from error


def _switch(
    server: MetadataServer, key: str, *, instance: tuple[str, ...], project: tuple[str, ...] = ()
) -> bool | None:
    """A switch among the attributes; the instance's own goes before that of its project."""
    for level, keys in (("instance", instance), ("project", project)):
        if key in keys:
            return parse_switch(server.text(f"{level}/attributes/{key}"))
    return None


def _blocks_project_ssh_keys(server: MetadataServer, attributes: tuple[str, ...]) -> bool | None:
    """Only the instance's own switch counts here, and its old ``sshKeys`` keeps those of the project out as well.

    Source: https://github.com/GoogleCloudPlatform/guest-agent/blob/main/metadata/metadata.go
    """
    return True if "sshKeys" in attributes else _switch(server, "block-project-ssh-keys", instance=attributes)
