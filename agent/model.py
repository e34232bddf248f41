"""The nouns of dlvmguard: what a fact, a check, a finding and an event are.

Everything else in the program is a step from one of these to the next. All of them are frozen values; this
module imports nothing of ours, so that every other module may speak in its words.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import inspect
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

Scalar = str | int | float | bool


class Severity(enum.Enum):
    """How bad a finding is if nobody acts, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst, so that an ascending sort shows the worst first."""
        return list(Severity).index(self)

    def at_least(self, threshold: Severity) -> bool:
        """Whether this is as bad as the threshold or worse."""
        return self.rank <= threshold.rank


class Duty(enum.Enum):
    """The five duties that stay with whoever runs the VM.

    Source: https://cloud.google.com/deep-learning-vm/docs/shared-responsibility
    """

    LATEST_IMAGES = "latest-images"
    ACCESS = "access"
    APPLICATIONS = "applications"
    MONITORING = "monitoring"
    COMPLIANCE = "compliance"

    @property
    def title(self) -> str:
        """The duty as a person reads it."""
        return _DUTY_TITLES[self]


_DUTY_TITLES = {
    Duty.LATEST_IMAGES: "Use the latest images",
    Duty.ACCESS: "Manage access",
    Duty.APPLICATIONS: "Secure the applications",
    Duty.MONITORING: "Monitor for incidents",
    Duty.COMPLIANCE: "Comply with laws and regulations",
}


class CannotLookError(Exception):
    """Something on the machine could not be looked at.

    Probes let it escape; it becomes an Unknown with this reason. ``hint`` says what would make the look possible.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        """Keep the reason in words for a person, and the hint."""
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class AbsentError(CannotLookError):
    """The thing is not there, as opposed to not readable. Often an answer in itself."""


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen, typed value; the base of everything that travels between the stages."""


class Unknown(Value, frozen=True, kw_only=True):
    """What could not be looked at, and why. Never a pass, and never a reason to resolve a finding.

    ``scope`` says which subjects are not judged: an empty scope means all of them, ``/opt/conda`` means the
    subject of that name and all below it.
    """

    reason: str
    hint: str = ""
    scope: str = ""

    def covers(self, subject: str) -> bool:
        """Whether this is a reason not to judge the subject."""
        if not self.scope or subject == self.scope:
            return True
        below = self.scope if self.scope[-1] in SEPARATORS else (tuple(self.scope + mark for mark in SEPARATORS))
        return subject.startswith(below)

    def hides(self, finding: Finding) -> bool:
        """Whether the finding may still be there: its subject is not judged, or one of its places."""
        return self.covers(finding.subject) or any(self.covers(each.place) for each in finding.instances)


SEPARATORS = "/#:"
"""What parts a subject: path components, ``environment#package``, ``kind:name``."""


class Fact(Value, frozen=True, kw_only=True):
    """What a probe saw. Subclasses add the fields; ``gaps`` are the parts that it could not see.

    ``unfinished`` says that the probe stopped at a limit and goes on from there when it looks again.
    """

    gaps: tuple[Unknown, ...] = ()
    unfinished: bool = False


class Seen(Value, frozen=True, kw_only=True):
    """A fact, or why there is none, and when the look was taken."""

    fact: Fact | Unknown
    taken: dt.datetime


class Moment(Value, frozen=True, kw_only=True):
    """The time at which the facts are judged, so that checks need no clock."""

    now: dt.datetime


class Table(Value, frozen=True, kw_only=True):
    """A dated table of knowledge that ships with the product. Data that ages lives in these, not in code."""

    updated: dt.date
    sources: tuple[str, ...]


class Instance(Value, frozen=True, kw_only=True):
    """One of several places of a finding: where (a path, or a key as subjects are), which version, what fixes it."""

    place: str
    version: str = ""
    fix: str = ""


class Finding(Value, frozen=True, kw_only=True):
    """One thing that is not as it should be, as a check yields it.

    ``subject`` is a stable key (a path, a GPU UUID, ``tcp/8888``), never a sentence; ``detail`` says in one line
    what is wrong here; ``evidence`` holds stable values only: a process id or a temperature would make every scan
    a change. ``instances`` are the places of what is one thing in many places. ``severity`` and ``fix`` are set only
    where they differ from the check's own.
    """

    subject: str
    detail: str
    evidence: Mapping[str, Scalar] = {}
    instances: tuple[Instance, ...] = ()
    severity: Severity | None = None
    fix: str = ""


class Judged(Finding, frozen=True, kw_only=True):
    """A finding as the engine completes it. Identity is ``(check, subject)``; all else may change."""

    check: str
    severity: Severity

    @property
    def key(self) -> Key:
        """The identity."""
        return (self.check, self.subject)

    @property
    def id(self) -> str:
        """The identity as a short name to type."""
        return short_id(self.key)


Key = tuple[str, str]
"""(check id, subject)."""


def short_id(key: Key) -> str:
    """An identity as ten hexadecimal digits."""
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:10]


class Outcome(Value, frozen=True, kw_only=True):
    """What one check said about facts of which the oldest was seen at ``taken``. Nothing at all is a pass."""

    check: str
    taken: dt.datetime
    findings: tuple[Judged, ...] = ()
    unknowns: tuple[Unknown, ...] = ()


class EventKind(enum.Enum):
    """How a finding changed."""

    OPENED = "opened"
    CHANGED = "changed"
    RESOLVED = "resolved"


class Change(Value, frozen=True, kw_only=True):
    """A difference between what the ledger holds and what was judged now; it becomes an event when recorded."""

    kind: EventKind
    finding: Judged
    reason: str = ""
    previous: Severity | None = None


class Event(Value, frozen=True, kw_only=True):
    """A recorded change: one row of the ledger, one entry in Cloud Logging.

    ``uid`` and ``time`` are frozen when the row is written, before anything is sent, so that a retry is the same
    entry to the server.
    """

    sequence: int
    uid: str
    time: dt.datetime
    change: Change
    initial: bool = False


class Probe(Value, Generic[T], frozen=True, kw_only=True):
    """Looks at the machine and returns one fact. Made by ``@probe``, which says what the rest means; judges nothing."""

    name: str
    topic: str
    fact: type[Fact]
    network: bool
    remembers: bool
    every: dt.timedelta
    glance: Callable[..., Hashable] | None
    kernel_log: str
    slow: bool
    volatile: bool
    settles: dt.timedelta
    title: str
    look: Callable[..., T]

    def __call__(self, *arguments: Any) -> T:
        """Look, as a plain function; errors escape."""
        return self.look(*arguments)


class Listed(Value, frozen=True, kw_only=True):
    """What is told of a check beside its findings."""

    id: str
    topic: str
    title: str
    severity: Severity
    duty: Duty
    fix: str

    @property
    def entry(self) -> Listed:
        """This alone, without what a check has besides."""
        return Listed(**{name: getattr(self, name) for name in Listed.__struct_fields__})


class Check(Listed, frozen=True, kw_only=True):
    """One judgement with its manual page. Made by ``@check``; its parameters name what it needs."""

    manual: str
    needs: Mapping[str, type]
    wants: Mapping[str, type[Fact]]
    judge: Callable[..., Iterable[Finding | Unknown]]

    @property
    def asks_for_facts(self) -> bool:
        """Whether it is about the machine, and not about the program and its configuration alone."""
        return any(issubclass(kind, Fact) for kind in self.needs.values())

    def __call__(self, *arguments: Any, **named: Any) -> Iterable[Any]:
        """Judge, as a plain function, which is how tests call it."""
        return self.judge(*arguments, **named)


def probe(
    *,
    every: dt.timedelta = dt.timedelta(hours=1),
    network: bool = False,
    glance: Callable[..., Hashable] | None = None,
    kernel_log: str = "",
    slow: bool = False,
    volatile: bool = False,
    settles: dt.timedelta = dt.timedelta(),
) -> Callable[[Callable[..., T]], Probe[T]]:
    """Make a function of ``(host, config)`` a probe; name, topic and fact type come from the function itself.

    One of ``(host, config, earlier)`` remembers: it is handed the fact that it returned last, or None where there is
    none, or none that can still be read.

    On a machine that is watched it looks ``every`` so often, and besides when it is provoked: when what ``glance``
    returns, a function of the same arguments that costs next to nothing, is another than before; or when the kernel
    logs a line in which ``kernel_log`` is found, a regular expression. A ``slow`` one may take long and lets the
    others go first. ``network`` says that it needs the network, so that it runs on the unprivileged side. What a
    ``volatile`` one sees is another thing each time, as utilisation is: it is kept now and then, and is no news. What
    changes often ``settles``: it is news, but not again within that time.
    """

    def make(look: Callable[..., T]) -> Probe[T]:
        fact = typing.get_type_hints(look)["return"]
        remembers = "earlier" in inspect.signature(look).parameters
        return Probe(
            name=look.__name__,
            topic=_topic(look),
            fact=fact,
            network=network,
            remembers=remembers,
            every=every,
            glance=glance,
            kernel_log=kernel_log,
            slow=slow,
            volatile=volatile,
            settles=settles,
            title=_manual(look)[0],
            look=look,
        )

    return make


def check(*, severity: Severity, duty: Duty, fix: str) -> Callable[[Callable[..., Iterable[Finding | Unknown]]], Check]:
    """Make a pure function of facts a check; its id is the function's name, its manual page the docstring.

    A parameter of type ``SomeFact | Unknown`` is one that it can do without: it is handed the reason where there is
    no such fact, and what that fact could not see is no reason to doubt the check. What a check itself cannot judge
    it yields as an Unknown.
    """

    def make(judge: Callable[..., Iterable[Finding | Unknown]]) -> Check:
        hints = typing.get_type_hints(judge)
        hints.pop("return", None)
        wants = {name: typing.get_args(hint)[0] for name, hint in hints.items() if Unknown in typing.get_args(hint)}
        title, manual = _manual(judge)
        return Check(
            id=judge.__name__.replace("_", "-"),
            topic=_topic(judge),
            title=title,
            manual=manual,
            severity=severity,
            duty=duty,
            fix=fix,
            needs={name: hint for name, hint in hints.items() if name not in wants},
            wants=wants,
            judge=judge,
        )

    return make


def _topic(function: Callable[..., Any]) -> str:
    return function.__module__.rpartition(".")[2]


def _manual(function: Callable[..., Any]) -> tuple[str, str]:
    title, _, rest = inspect.cleandoc(function.__doc__ or "").partition("\n")
    if not title:
        raise TypeError(f"{function.__module__}.{function.__name__} needs a docstring: it is its manual page")
    return title.strip(), rest.strip()


def attempt(call: Callable[[], T], *, what: str) -> T | Unknown:
    """Run one probe or check so that its failure is an Unknown and stops nothing else.

    This is the boundary around third-party input: whatever breaks in here is said, never swallowed.
    """
    try:
        return call()
    except CannotLookError as error:
        return Unknown(reason=error.reason, hint=error.hint)
    except Exception as error:  # noqa: BLE001 -- the one boundary around a probe or a check; the reason is kept and shown
        return Unknown(
            reason=f"{what} failed: {type(error).__name__}: {str(error)[:200]}",
            hint="This is a defect in dlvmguard; please report it with this line.",
        )
