"""The configuration: one frozen typed value, read from strict TOML.

An unknown key, a wrong type or a value out of range is an error that names the file, the key, what was expected
and the nearest name that exists. The reference that ``dlvmguard config reference`` prints is made from these types.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.host import Host
from agent.model import AbsentError, CannotLookError, Severity
from agent.state import GROUP

DEFAULT_PATH = "/etc/dlvmguard/config.toml"
_MEMBERS = f"; it is for root and the group {GROUP}: sudo usermod -aG {GROUP} $USER"


class ConfigError(Exception):
    """The configuration cannot be used; the text names the file, the key and what was expected."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration file."""


def _described(text: str, **bounds: Any) -> Meta:
    return Meta(description=text, **bounds)


class InstanceSection(Section, frozen=True, kw_only=True):
    """The virtual machine itself, as the metadata server describes it."""

    metadata_url: Annotated[
        str, _described("Where the metadata server answers.", pattern=r"^https?://[^\s/]+(/.*)?$")
    ] = "http://169.254.169.254"
    detect: Annotated[
        Literal["auto", "always", "never"],
        _described('Ask the metadata server only on a Google machine ("auto"), "always" or "never".'),
    ] = "auto"
    timeout_seconds: Annotated[
        float, _described("How long all questions to the metadata server together may take.", gt=0, le=300)
    ] = 10.0


class ImageSection(Section, frozen=True, kw_only=True):
    """The image that this machine was made from."""

    maximum_age_days: Annotated[int, _described("An image older than this many days is a finding.", ge=1, le=3650)] = (
        120
    )
    compute_api: Annotated[
        bool,
        _described(
            "Ask the Compute API, with the machine's own service account, whether its image family has a newer image."
        ),
    ] = False
    compute_endpoint: Annotated[
        str,
        _described(
            "Where the Compute API answers, for private access; https, or this machine itself.",
            pattern=r"^(https://[^\s/@]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?)$",
        ),
    ] = "https://compute.googleapis.com"


class PackagesSection(Section, frozen=True, kw_only=True):
    """Debian packages."""

    lists_maximum_age_days: Annotated[
        int, _described("Package lists older than this many days make the answer stale.", ge=1, le=365)
    ] = 7


class PythonSection(Section, frozen=True, kw_only=True):
    """Python environments."""

    roots: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^/")], ...],
        _described("Directories under which environments are looked for; links in them are not followed."),
    ] = ("/usr", "/opt", "/home", "/root", "/srv")
    directories: Annotated[
        int,
        _described("At most this many directories are visited; what is left out is reported.", ge=100, le=5_000_000),
    ] = 100_000
    seconds: Annotated[
        float, _described("The search ends after this time; what is left out is reported.", gt=0, le=3600)
    ] = 60.0


class GpuSection(Section, frozen=True, kw_only=True):
    """NVIDIA GPUs."""

    library: Annotated[
        str, _described("Absolute path of libnvidia-ml.so.1; empty: the system's own.", pattern=r"^(/.*)?$")
    ] = ""
    deadline_seconds: Annotated[
        float, _described("A driver that has not answered by then is reported as hung.", gt=0, le=300)
    ] = 15.0


class PortsSection(Section, frozen=True, kw_only=True):
    """Listening sockets."""

    expected: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(tcp|udp)/\d{1,5}$")], ...],
        _described('Ports that are meant to be reachable, as "tcp/22".'),
    ] = ()


class ModelsSection(Section, frozen=True, kw_only=True):
    """Model directories and their integrity."""

    directories: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(/|~)")], ...], _described("Model directories, beside those discovered.")
    ] = ()
    discover: Annotated[bool, _described("Look for models in well-known places such as Hugging Face caches.")] = True
    hash_bytes_per_scan: Annotated[
        int,
        _described(
            "At most this many bytes are read in one scan, or one larger file; the rest waits for the next.", ge=0
        ),
    ] = 20 << 30


_Given = Annotated[str, Meta(min_length=1, max_length=500)]


class SuppressSection(Section, frozen=True, kw_only=True):
    """Findings about flaws that somebody answers for, until a day: ``[[advisories.suppress]]``.

    ``place`` may hold ``*``; what is not given fits everything, but one of the three has to be given.
    """

    id: Annotated[str, _described("The flaw, by any of its ids.")] = ""
    package: Annotated[str, _described("The package, as its ecosystem calls it.")] = ""
    place: Annotated[str, _described("Where it is installed, as the finding says; * stands for any text.")] = ""
    reason: Annotated[_Given, _described("Why it does no harm.")]
    owner: Annotated[_Given, _described("Who answers for it.")]
    until: Annotated[dt.date, _described("The last day on which this holds.")]

    def __post_init__(self) -> None:
        """Refuse what would fit everything."""
        if not (self.id or self.package or self.place):
            raise ValueError("expected one of id, package and place; without them it would fit everything")


class AdvisoriesSection(Section, frozen=True, kw_only=True):
    """The advisory database: what is known of flaws in packages."""

    suppress: Annotated[
        tuple[SuppressSection, ...],
        _described("Flaws that somebody answers for, each with id, package or place, reason, owner and until."),
    ] = ()
    vex: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^/")], ...],
        _described("Paths of OpenVEX documents that say which flaws do no harm here."),
    ] = ()
    url: Annotated[
        str,
        _described(
            "Where a newer one is fetched, as https://... or gs://bucket/prefix; empty: it is not.",
            pattern=r"^((https?|gs)://[^\s?#@]+)?$",
        ),
    ] = ""
    public_keys: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{43}=$")], ...],
        _described("Keys that may sign it, as `dlvmguard advisories publish` prints them."),
    ] = ()
    credentials: Annotated[
        Literal["none", "machine"],
        _described('"machine" for a private bucket: the attached service account, towards Cloud Storage alone.'),
    ] = "none"
    ecosystems: Annotated[
        tuple[str, ...],
        _described('Fetched beside what this machine needs, for its containers, as "Debian:12"; "*" for everything.'),
    ] = ()


class CloudLoggingSection(Section, frozen=True, kw_only=True):
    """Google Cloud Logging."""

    enabled: Annotated[
        Literal["auto", "always", "never"],
        _described('Ship on a Google Cloud machine ("auto"), "always" or "never".'),
    ] = "auto"
    project: Annotated[str, _described("Project to write to; empty: the machine's own.")] = ""
    endpoint: Annotated[
        str, _described("API endpoint, for private or restricted access; empty: Google's.", pattern=r"^(https?://.+)?$")
    ] = ""
    credentials: Annotated[
        str, _described('"machine" for the attached service account, "none", or the path of a key file.')
    ] = "machine"
    timeout_seconds: Annotated[float, _described("How long one request may take.", gt=0, le=300)] = 30.0


class JsonLinesSection(Section, frozen=True, kw_only=True):
    """A file of JSON lines, for people without Google Cloud."""

    path: Annotated[str, _described("File to append events to; empty: none.", pattern=r"^(/.*)?$")] = ""


class SinksSection(Section, frozen=True, kw_only=True):
    """Where events go."""

    cloud_logging: CloudLoggingSection = CloudLoggingSection()
    jsonl: JsonLinesSection = JsonLinesSection()


class Config(Section, frozen=True, kw_only=True):
    """Everything that can be set. Each setting has a default; an empty file is a valid configuration."""

    state_directory: Annotated[
        str, _described("Where the state lives; empty: /var/lib/dlvmguard, or the user's own.", pattern=r"^([/~].*)?$")
    ] = ""
    fail_on: Annotated[Severity, _described("`scan` exits 1 when a finding is this bad or worse.")] = Severity.HIGH
    stale_after_hours: Annotated[
        int, _described("What was looked at longer ago than this is shown as stale.", ge=1, le=24 * 365)
    ] = 26
    instance: InstanceSection = InstanceSection()
    image: ImageSection = ImageSection()
    packages: PackagesSection = PackagesSection()
    python: PythonSection = PythonSection()
    gpu: GpuSection = GpuSection()
    ports: PortsSection = PortsSection()
    models: ModelsSection = ModelsSection()
    advisories: AdvisoriesSection = AdvisoriesSection()
    sinks: SinksSection = SinksSection()


def load(path: str = "", *, host: Host | None = None) -> Config:
    """Read the configuration; without a path the default one, which need not exist.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds what no setting allows.
    """
    try:
        text = (host or Host()).read(path or DEFAULT_PATH)
    except AbsentError as error:
        if path:
            raise ConfigError(f"{error.reason}; expected a TOML file, see `dlvmguard config reference`") from error
        return Config()
    except CannotLookError as error:
        raise ConfigError(error.reason + (_MEMBERS if error.hint and not path else "")) from error
    return parse(text, path=path or DEFAULT_PATH)


def parse(text: bytes, *, path: str) -> Config:
    """Decode a configuration file; ``path`` is for the errors."""
    try:
        return msgspec.toml.decode(text, type=Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explained(str(error))}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _explained(message: str) -> str:
    """The decoder's error with the key path as TOML writes it and the nearest valid name."""
    match = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", message, re.DOTALL)
    said, where = (match[1], match[2] or "") if match else (message, "")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", said, re.DOTALL)
    if not unknown:
        return f"{where or 'the file'}: {said[0].lower()}{said[1:]}"
    names = sorted(_section_at(where).__struct_fields__)
    near = difflib.get_close_matches(unknown[1], names, n=1)
    key = f"{where}.{unknown[1]}" if where else unknown[1]
    return f"unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}")


def _section_at(path: str) -> type[Section]:
    section: type[Section] = Config
    for name in filter(None, path.split(".")):
        key, bracket, _ = name.partition("[")
        hint = typing.get_type_hints(section)[key]
        section = typing.get_args(hint)[0] if bracket else hint  # one of a list of tables
    return section


def reference() -> str:
    """The whole configuration as a commented TOML file with every default."""
    return "\n".join(_reference(Config(), ())).strip() + "\n"


def _reference(section: Section, path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield f"\n# {type(section).__doc__}"
        yield f"[{'.'.join(path)}]"
    else:
        yield f"# The configuration of dlvmguard, read from {DEFAULT_PATH}. Every setting is shown with its default."
    hints = typing.get_type_hints(type(section), include_extras=True)
    inner = [(name, getattr(section, name)) for name in section.__struct_fields__]
    for name, value in inner:
        if not isinstance(value, Section):
            yield f"# {_description(hints[name])}"
            yield f"{name} = {_toml(value)}"
    for name, value in inner:
        if isinstance(value, Section):
            yield from _reference(value, (*path, name))


def _description(hint: Any) -> str:
    text = next(meta.description for meta in hint.__metadata__ if isinstance(meta, Meta) and meta.description)
    kind = typing.get_args(hint)[0]
    bounds = [
        f"{word} {getattr(meta, name)}"
        for meta in hint.__metadata__
        for name, word in (("ge", "at least"), ("gt", "more than"), ("le", "at most"))
        if getattr(meta, name) is not None
    ]
    if kind is Severity:
        bounds.append("one of " + ", ".join(severity.value for severity in Severity))
    return f"{text} ({', '.join(bounds)})" if bounds else text


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Severity):
        return _toml(value.value)
    return msgspec.json.encode(value).decode()  # strings, numbers and booleans are written alike in TOML


def effective(config: Config) -> dict[str, Any]:
    """The configuration in force, as plain values."""
    return typing.cast("dict[str, Any]", msgspec.to_builtins(config))
