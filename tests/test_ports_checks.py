"""What listens beyond the machine: known services, and what nobody declared."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from agent import knowledge
from agent.checks.ports import listener_unexpected, service_exposed
from agent.config import Config, PortsSection
from agent.diff import diff
from agent.evaluate import evaluate
from agent.facts.ports import Exposure, Listener, Listeners
from agent.knowledge import Services
from agent.model import Finding, Moment, Seen, Severity, Unknown

SERVICES = knowledge.load(Services)
ADDRESSES = {
    "127.0.0.1": Exposure.LOOPBACK, "10.128.0.2": Exposure.PRIVATE, "34.1.2.3": Exposure.PUBLIC,
    "0.0.0.0": Exposure.WILDCARD, "::": Exposure.WILDCARD,
}  # fmt: skip


def a_listener(name: str, address: str = "0.0.0.0", process: str = "app", **fields) -> Listener:
    protocol, _, port = name.partition("/")
    values = {"uid": 1000, "user": "jane", "dynamic": 32768 <= int(port) <= 60999, **fields}
    return Listener(
        protocol=protocol, port=int(port), address=address, exposure=ADDRESSES[address], process=process, **values
    )


def exposed(*listeners: Listener, expected: tuple[str, ...] = ()) -> list[Finding]:
    config = Config(ports=PortsSection(expected=expected))
    return list(service_exposed(Listeners(listeners=listeners), SERVICES, config, Unknown(reason="not looked")))


def unexpected(*listeners: Listener, expected: tuple[str, ...] = ()) -> list[Finding]:
    config = Config(ports=PortsSection(expected=expected))
    return list(listener_unexpected(Listeners(listeners=listeners), SERVICES, config, Unknown(reason="not looked")))


FRESH_IMAGE = (
    a_listener("tcp/22", process="sshd"),
    a_listener("tcp/22", "::", process="sshd"),
    a_listener("tcp/53", "127.0.0.1", process="systemd-resolve"),
    a_listener("tcp/5355", process="systemd-resolve"),
    a_listener("udp/5355", process="systemd-resolve"),
    a_listener("udp/68", "10.128.0.2", process="systemd-network"),
    a_listener("udp/323", "127.0.0.1", process="chronyd"),
    a_listener("udp/45123", process="chronyd"),
    a_listener("tcp/20201", "::", process="otelopscol"),
    a_listener("tcp/20202", process="fluent-bit"),
)


def test_a_fresh_image_is_quiet():
    assert exposed(*FRESH_IMAGE) == []
    assert unexpected(*FRESH_IMAGE) == []


def test_services_on_loopback_are_quiet():
    local = [a_listener(f"tcp/{port}", "127.0.0.1", process) for port, process in ((8888, "jupyter-lab"), (9999, "x"))]
    assert exposed(*local) == []
    assert unexpected(*local) == []


def test_a_declared_port_is_quiet():
    declared = (a_listener("tcp/8888", process="jupyter-lab"), a_listener("tcp/9999"))
    assert exposed(*declared, expected=("tcp/8888",)) == []
    assert unexpected(*declared, expected=("tcp/9999",)) == []


def test_an_ordinary_web_server_on_a_shared_port_is_not_called_something_else():
    assert exposed(a_listener("tcp/8080"), a_listener("tcp/8888", process="nginx"), a_listener("tcp/6379")) == []


@pytest.mark.parametrize(
    ("listener", "service"),
    [
        (a_listener("tcp/8888", process="jupyter-lab"), "jupyter"),
        (a_listener("tcp/9999", process="jupyter-noteboo"), "jupyter"),  # as the kernel cuts it
        (a_listener("tcp/8265", process="ray-dashboard"), "ray"),
        (a_listener("tcp/6379", process="gcs_server"), "ray"),  # and not Redis
        (a_listener("tcp/6379", process="redis-server"), "redis"),
        (a_listener("tcp/8000", process="VLLM::APIServer"), "vllm"),
        (a_listener("tcp/8000", process="tritonserver"), "triton"),
        (a_listener("tcp/11434", process="ollama"), "ollama"),
        (a_listener("tcp/2375", process="dockerd"), "docker"),
        (a_listener("tcp/2376", process="dockerd"), "docker-tls"),
        (a_listener("tcp/4243", process="dockerd"), "docker"),
        (a_listener("tcp/8080", process="node", executable="/usr/lib/code-server/lib/node"), "code-server"),
        (a_listener("tcp/3100", process="renamed", executable="/usr/bin/qdrant (deleted)"), "qdrant"),
        (a_listener("udp/11211", process="memcached"), "memcached"),
    ],
)
def test_a_service_is_known_by_its_process_or_program(listener, service):
    (finding,) = exposed(listener)
    assert finding.evidence["service"] == service
    assert finding.severity is next(each.risk for each in SERVICES.services if each.id == service)
    assert "going by its port" not in finding.detail
    assert unexpected(listener) == []


@pytest.mark.parametrize(
    ("listener", "service"),
    [
        (a_listener("tcp/8888", process="python3"), "jupyter"),
        (a_listener("tcp/5000", process="gunicorn"), "mlflow"),
        (a_listener("tcp/8000", process="pt_main_thread"), "vllm"),
        (a_listener("tcp/9200", process="java"), "elasticsearch"),
        (a_listener("tcp/11434", process="docker-proxy"), "ollama"),
        (a_listener("tcp/2049", process=""), "nfs"),
        (a_listener("tcp/6006", process="my-board", executable="/opt/conda/bin/python3.12"), "tensorboard"),
    ],
)
def test_a_service_known_by_its_port_alone_is_said_so_and_one_step_less_severe(listener, service):
    (finding,) = exposed(listener)
    risk = next(each.risk for each in SERVICES.services if each.id == service)
    assert finding.evidence["service"] == service
    assert finding.severity is list(Severity)[risk.rank + 1]
    assert "going by its port" in finding.detail


def test_a_private_address_alone_is_one_step_less_severe_and_the_worst_address_wins():
    private = a_listener("tcp/6379", "10.128.0.2", "redis-server")
    assert [each.severity for each in exposed(private)] == [Severity.HIGH]
    (finding,) = exposed(private, a_listener("tcp/6379", "34.1.2.3", "redis-server"))
    assert finding.severity is Severity.CRITICAL
    assert finding.evidence["addresses"] == "10.128.0.2, 34.1.2.3"


def test_a_finding_says_what_was_not_checked_and_what_to_do():
    (finding,) = exposed(a_listener("tcp/8888", process="jupyter-lab"))
    assert finding.detail == (
        "Jupyter listens on 0.0.0.0, process jupyter-lab of user jane; whether it asks for a password was not checked"
    )
    assert "c.ServerApp.ip = '127.0.0.1'" in finding.fix
    assert '"tcp/8888" to ports.expected' in finding.fix


def test_the_many_ports_of_ray_are_one_finding():
    workers = [a_listener(f"tcp/{port}", process="ray::IDLE") for port in (10002, 10003, 41234)]
    (finding,) = exposed(a_listener("tcp/40001", process="raylet"), *workers)
    assert finding.subject == "tcp/dynamic#ray"
    assert finding.evidence["process"] == "ray::IDLE, raylet"
    assert "ports.expected" not in finding.fix


def test_a_listener_that_nobody_declared_is_a_finding():
    (finding,) = unexpected(a_listener("tcp/9999", process="app"), a_listener("tcp/9999", "::", "app"))
    assert (finding.subject, finding.severity) == ("tcp/9999", Severity.MEDIUM)
    assert finding.detail == "tcp/9999 is open on 0.0.0.0, ::, process app of user jane"
    assert '"tcp/9999"' in finding.fix


@pytest.mark.parametrize(
    "listener",
    [a_listener("tcp/9999", "10.128.0.2"), a_listener("udp/514"), a_listener("tcp/45000", process="pt_main_thread")],
)
def test_private_addresses_datagrams_and_dynamic_ports_are_minor(listener):
    assert [each.severity for each in unexpected(listener)] == [Severity.LOW]


def test_a_public_address_makes_it_worse_again():
    (finding,) = unexpected(a_listener("tcp/9999", "10.128.0.2"), a_listener("tcp/9999", "34.1.2.3"))
    assert finding.severity is Severity.MEDIUM
    assert finding.evidence["exposure"] == "public"


def test_dynamic_ports_of_one_program_are_one_finding_whatever_their_numbers():
    before = unexpected(*(a_listener(f"tcp/{port}", process="pt_main_thread") for port in (33001, 33002)))
    after = unexpected(*(a_listener(f"tcp/{port}", process="pt_main_thread") for port in (51000, 52000, 53000)))
    assert before == after
    assert [each.subject for each in before] == ["tcp/dynamic#pt_main_thread"]


def test_only_what_lasts_is_evidence():
    one = a_listener("tcp/9999", pid=100, unit="session-3.scope", container_kind="docker", container="0123456789ab")
    two = a_listener("tcp/9999", pid=200, unit="session-9.scope", container_kind="docker", container="ba9876543210")
    assert unexpected(one) == unexpected(two)
    (finding,) = unexpected(a_listener("tcp/9999", unit="app.service"))
    assert finding.evidence["unit"] == "app.service"


def test_very_many_addresses_stay_one_line():
    many = tuple(
        Listener(protocol="tcp", port=9999, address=f"10.0.0.{last}", exposure=Exposure.PRIVATE, dynamic=False,
                 uid=0, user="root", process="app") for last in range(1, 200)
    )  # fmt: skip
    (finding,) = unexpected(*many)
    assert finding.evidence["addresses"] == "10.0.0.1, 10.0.0.10, 10.0.0.100, 10.0.0.101 and 195 more"


def test_an_owner_that_cannot_be_seen_resolves_nothing_but_what_is_gone_is_resolved():
    moment = Moment(now=dt.datetime(2026, 11, 23, tzinfo=dt.timezone.utc))
    seen = Listeners(listeners=(a_listener("tcp/9999", process="jupyter-lab"), a_listener("tcp/5678", process="n8n")))
    before = evaluate([service_exposed], {Listeners: Seen(fact=seen, taken=moment.now)}, Config(), moment)
    unseen = Listeners(
        listeners=(a_listener("tcp/9999", process=""),), gaps=(Unknown(reason="not seen", scope="tcp/9999"),)
    )
    after = evaluate([service_exposed], {Listeners: Seen(fact=unseen, taken=moment.now)}, Config(), moment)
    changes = diff(before[0].findings, after, ["service-exposed"])
    assert [(change.kind.value, change.finding.subject) for change in changes] == [("resolved", "tcp/5678")]


def test_the_table_names_each_service_once_with_what_is_needed_to_know_it():
    ids = [service.id for service in SERVICES.services]
    ports = [port for service in SERVICES.services for port in service.ports]
    assert len(ids) == len(set(ids))
    assert len(ports) == len(set(ports))
    for service in SERVICES.services:
        assert service.ports or service.commands
        assert not service.runtime or service.runtime in SERVICES.runtimes
        assert service.source.startswith("https://")
        assert service.why.endswith(".")
        assert service.fix.endswith(".")
    written = [*ports, *(port.port for port in SERVICES.expected)]
    assert all(re.fullmatch(r"(tcp|udp)/\d{1,5}", port) for port in written)


def test_no_service_is_called_like_the_runtime_of_another():
    commands = {name for service in SERVICES.services for name in service.commands}
    assert not commands & {name for names in SERVICES.runtimes.values() for name in names}
