"""OpenVEX documents: what somebody who knows says about flaws in named products.

Format: https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md
"""

from __future__ import annotations

import datetime as dt
import re
import urllib.parse
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config import Config
from agent.host import MEBIBYTE, Host, shown
from agent.model import CannotLookError, Fact, Unknown, Value, probe

_LIMIT = 8 * MEBIBYTE
_STATEMENTS = 20_000
"""In all documents together; the largest that are published have some thousands."""

Status = Literal["not_affected", "affected", "fixed", "under_investigation"]


class Product(Value, frozen=True, kw_only=True):
    """A package as a package URL names it; an empty version means every one.

    https://github.com/package-url/purl-spec
    """

    kind: str
    name: str
    version: str = ""


class Statement(Value, frozen=True, kw_only=True):
    """What the status of a flaw, by all the names given, is in these products since that time, and why."""

    ids: tuple[str, ...]
    products: tuple[Product, ...]
    status: Status
    reason: str
    author: str
    since: dt.datetime
    document: str


class Vex(Fact, frozen=True, kw_only=True):
    """All statements of all documents, oldest first: a later one about the same takes the place of an earlier one."""

    statements: tuple[Statement, ...] = ()


_Text = Annotated[str, Meta(max_length=4000)]


class _Vulnerability(msgspec.Struct):
    id: _Text = msgspec.field(default="", name="@id")
    name: _Text = ""
    aliases: tuple[_Text, ...] = ()


class _Component(msgspec.Struct):
    id: _Text = msgspec.field(default="", name="@id")
    identifiers: dict[str, _Text] = {}
    subcomponents: tuple[msgspec.Raw, ...] = ()


class _Statement(msgspec.Struct):
    status: Status
    vulnerability: _Vulnerability | _Text = ""
    products: tuple[_Component | _Text, ...] = ()
    timestamp: dt.datetime | None = None
    last_updated: dt.datetime | None = None
    justification: _Text = ""
    impact_statement: _Text = ""
    status_notes: _Text = ""


class _Document(msgspec.Struct):
    context: str = msgspec.field(name="@context")
    author: _Text
    timestamp: dt.datetime
    statements: tuple[_Statement, ...] = ()


@probe(every=dt.timedelta(hours=1))
def vex(host: Host, config: Config) -> Vex:
    """OpenVEX documents that the configuration names."""
    statements, gaps = list[Statement](), list[Unknown]()
    for path in config.advisories.vex:
        hint = "`advisories.vex` in the configuration names the documents."
        try:
            said = parse(host.read(path, limit=_LIMIT), shown(path))
        except CannotLookError as error:
            gaps.append(Unknown(reason=error.reason, hint=error.hint or hint, scope=f"vex:{shown(path)}"))
            continue
        statements += said.statements
        gaps += said.gaps
    if len(statements) > _STATEMENTS:
        gaps.append(Unknown(reason=f"more than {_STATEMENTS} statements of OpenVEX documents", scope="vex:"))
    kept = sorted(statements[:_STATEMENTS], key=lambda each: each.since)
    return Vex(statements=tuple(kept), gaps=tuple(gaps))


def parse(content: bytes, path: str) -> Vex:
    """The statements of one document. One about parts of a product, or about no package, is a gap and no statement."""
    try:
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CannotLookError(f"{path} is not an OpenVEX document: {shown(str(error)[:200])}") from error
    if not re.match(r"https://openvex\.dev/ns(/|$)", document.context):
        raise CannotLookError(f"{path} is not an OpenVEX document: its context is another")
    said = [each for statement in document.statements for each in _statement(statement, document, path)]
    unused = sum(each is None for each in said)
    reason = f"{path}: {unused} statements are about parts of products, or about what has no package URL"
    return Vex(
        statements=tuple(each for each in said if each),
        gaps=(Unknown(reason=reason, scope=f"vex:{path}"),) if unused else (),
    )


def _statement(said: _Statement, document: _Document, path: str) -> Iterator[Statement | None]:
    named = said.vulnerability
    ids = (named,) if isinstance(named, str) else (named.name or named.id.rpartition("/")[2], *named.aliases)
    products = tuple(product for each in said.products if (product := _product(each)))
    if len(products) < len(said.products):
        yield None
    if products and any(ids):
        yield Statement(
            ids=tuple(shown(each) for each in ids if each),
            products=products,
            status=said.status,
            reason=shown(
                " ".join(filter(None, (said.justification, said.impact_statement or said.status_notes)))[:500]
            ),
            author=shown(document.author[:200]),
            since=_aware(said.last_updated or said.timestamp or document.timestamp),
            document=path,
        )


def _aware(time: dt.datetime) -> dt.datetime:
    return time if time.tzinfo else time.replace(tzinfo=dt.timezone.utc)


def _product(component: _Component | str) -> Product | None:
    """What a product is; None for one of which only parts are meant, and for what is no package."""
    if isinstance(component, str):
        return parse_purl(component)
    return None if component.subcomponents else parse_purl(component.identifiers.get("purl") or component.id)


def parse_purl(text: str) -> Product | None:
    """Type, name and version of a package URL; None where it is none. Namespace, qualifiers and subpath are left out.

    https://github.com/package-url/purl-spec/blob/main/PURL-SPECIFICATION.rst
    """
    match = re.fullmatch(r"pkg:/*([A-Za-z][A-Za-z0-9.+-]*)/([^?#]+)(?:[?#].*)?", text, re.DOTALL)
    if not match:
        return None
    path, _, version = match[2].partition("@")
    name = urllib.parse.unquote(path.rstrip("/").rpartition("/")[2])
    return (
        Product(kind=match[1].lower(), name=shown(name), version=shown(urllib.parse.unquote(version))) if name else None
    )
