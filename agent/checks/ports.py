"""What listens beyond this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from agent.config import DEFAULT_PATH, Config
from agent.facts.ports import Exposure, Listener, Listeners
from agent.facts.workload import Workload
from agent.facts.workloads import Workloads
from agent.knowledge import Service, Services
from agent.model import Duty, Finding, Scalar, Severity, Unknown, check

_COMM = 15
"""The kernel cuts the name of a process to so many bytes: https://man7.org/linux/man-pages/man5/proc_pid_comm.5.html"""


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix="Bind the service to 127.0.0.1 and reach it through an SSH tunnel.",
)
def service_exposed(
    listeners: Listeners, services: Services, config: Config, workloads: Workloads | Unknown
) -> Iterator[Finding]:
    """A service that hands out code execution, data or GPU time listens beyond this machine.

    Notebooks, cluster schedulers, model servers and data stores mostly trust whoever reaches them, and
    open ones are searched for and abused. The service is recognised by the name of its process or program, or, less
    surely and then one step less severe, by its usual port. Only the address that it is bound to is looked at: not
    whether it asks for a password, nor what the VPC firewall lets through. Bound to a private address alone it is
    one step less severe.
    """
    recognised: dict[str, list[tuple[Listener, Service, bool]]] = {}
    for listener in listeners.listeners:
        if not listener.reachable or listener.name in config.ports.expected:
            continue
        service, sure = _recognised(listener, services)
        if service:
            recognised.setdefault(_service_subject(listener, service), []).append((listener, service, sure))
    for subject, group in recognised.items():
        severity, service, sure = min(
            ((_severity(*each), each[1], each[2]) for each in group), key=lambda each: (each[0].rank, each[1].id)
        )
        bound = [listener for listener, _, _ in group]
        yield Finding(
            subject=subject,
            severity=severity,
            detail=f"{service.name}{'' if sure else ' (going by its port)'} listens on {_where(bound)}, {_who(bound)}"
            f"{_work(bound, workloads)}; whether it asks for a password was not checked",
            evidence={"service": service.id, **_evidence(bound)},
            fix=f"{service.why} {service.fix} {_declare(subject)}".strip(),
        )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.APPLICATIONS,
    fix=f"Stop it or bind it to 127.0.0.1; if it is meant to be reachable, declare its port in {DEFAULT_PATH}.",
)
def listener_unexpected(
    listeners: Listeners, services: Services, config: Config, workloads: Workloads | Unknown
) -> Iterator[Finding]:
    """Something listens beyond this machine that nobody declared.

    A Deep Learning VM shows SSH and a few system ports to the network; whatever else listens is a way in that
    somebody should have decided on. It is less severe on a private address alone, over UDP, and on ports that the
    kernel hands out, where training processes open them to each other. UDP on such ports is left out: an open
    client looks the same. Services with a known risk are told by service-exposed.
    """
    expected = {port.port for port in services.expected} | set(config.ports.expected)
    unexpected: dict[str, list[Listener]] = {}
    for listener in listeners.listeners:
        client = listener.protocol == "udp" and listener.dynamic
        if (
            listener.reachable
            and not client
            and listener.name not in expected
            and not _recognised(listener, services)[0]
        ):
            unexpected.setdefault(_subject(listener, listener.process or "unknown"), []).append(listener)
    for subject, group in unexpected.items():
        minor = all(each.exposure is Exposure.PRIVATE or each.protocol == "udp" or each.dynamic for each in group)
        yield Finding(
            subject=subject,
            severity=Severity.LOW if minor else Severity.MEDIUM,
            detail=f"{_ports(subject)} open on {_where(group)}, {_who(group)}{_work(group, workloads)}",
            evidence=_evidence(group),
            fix=f"Stop it or bind it to 127.0.0.1. {_declare(subject)}".strip(),
        )


def _recognised(listener: Listener, services: Services) -> tuple[Service | None, bool]:
    """The service that listens, and whether its own name says so rather than its port."""
    path = listener.executable.removesuffix(" (deleted)")
    program = path.rpartition("/")[2]
    names = {listener.process, program}
    named = [
        service
        for service in services.services
        if any(
            name in names or name[:_COMM] == listener.process or ("*" in name and _fits(name, (path, *names)))
            for name in service.commands
        )
    ]
    for service in named:
        if listener.name in service.ports:
            return service, True
    if named and listener.protocol == "tcp":
        return named[0], True
    for service in services.services:
        if listener.name in service.ports and _plausible(names, service, services):
            return service, False
    return None, False


def _plausible(names: Iterable[str], service: Service, services: Services) -> bool:
    """Whether the process that listens could be this service: its runtime, a proxy for a container, or unknown."""
    patterns = (*services.proxies, *services.runtimes.get(service.runtime, ()))
    return not any(names) or any(_fits(pattern, names) for pattern in patterns)


def _fits(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _severity(listener: Listener, service: Service, sure: bool) -> Severity:
    steps = (listener.exposure is Exposure.PRIVATE) + (not sure)
    return list(Severity)[min(service.risk.rank + steps, Severity.INFO.rank)]


def _service_subject(listener: Listener, service: Service) -> str:
    if service.many_ports and listener.name not in service.ports:
        return f"{listener.protocol}/dynamic#{service.id}"
    return _subject(listener, service.id)


def _subject(listener: Listener, holder: str) -> str:
    """The port, or all ports without a meaning of one holder together: their numbers change with every start."""
    return f"{listener.protocol}/dynamic#{holder}" if listener.dynamic else listener.name


def _ports(subject: str) -> str:
    protocol, _, port = subject.partition("/")
    return f"{protocol} ports without a fixed number are" if "#" in port else f"{subject} is"


def _where(group: Sequence[Listener]) -> str:
    return _joined(each.address for each in group)


def _who(group: Sequence[Listener]) -> str:
    users = _joined(each.user or f"number {each.uid}" for each in group)
    return f"process {_joined(each.process or 'unknown' for each in group)} of user {users}"


def _work(group: Iterable[Listener], workloads: Workloads | Unknown) -> str:
    """That who listens has a GPU, and what it runs there: to be reached, it is the costliest part of the machine."""
    if isinstance(workloads, Unknown):
        return ""
    found = [each for each in workloads.workloads if any(_is_port_of(each, listener) for listener in group)]
    with_what = _joined(name for each in found for name in each.frameworks)
    return (", which uses a GPU" + (f" with {with_what}" if with_what else "")) if found else ""


def _is_port_of(workload: Workload, listener: Listener) -> bool:
    """A worker may hold the socket that another process opened. Inside a container the same port is another."""
    container = workload.container.short if workload.container else ""
    ports = {(port.name, port.address) for port in workload.ports}
    return workload.pid == listener.pid or (
        container == listener.container and (listener.name, listener.address) in ports
    )


def _evidence(group: Sequence[Listener]) -> Mapping[str, Scalar]:
    """What stays the same as long as the same program listens in the same way: no process ids, no sessions."""
    worst = max((each.exposure for each in group), key=lambda each: each.rank)
    evidence = {
        "exposure": worst.value,
        "addresses": _where(group),
        "process": _joined(each.process for each in group),
        "user": _joined(each.user or str(each.uid) for each in group),
        "unit": _joined(each.unit for each in group if each.unit.endswith(".service")),
        "container": _joined(each.container_kind for each in group),
    }
    return {name: value for name, value in evidence.items() if value}


_NAMED = 4


def _joined(words: Iterable[str]) -> str:
    """Different words in order, and how many more than a line should hold."""
    distinct = sorted(set(filter(None, words)))
    more = len(distinct) - _NAMED
    return ", ".join(distinct[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _declare(subject: str) -> str:
    if "#" in subject:
        return ""
    return f'If it is meant to be reachable, add "{subject}" to ports.expected in {DEFAULT_PATH}.'
