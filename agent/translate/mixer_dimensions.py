"""How Envoy finds what Mixer's quotas count by: natively where it can, because CEL costs many times as much. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from envoy.config.core.v3 import extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from msgspec import Struct

from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal
from agent.translate import cel
from agent.translate.cel import Cel
from agent.translate.mixer_cel import OF_HEADERS
from agent.translate.resource import packed

METADATA = "envoy.filters.http.rbac"
"""Where shadow matchers note what they find."""
NOTE_SUFFIX = "shadow_effective_policy_id"
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
ALWAYS = {
    "request.path": ":path",
    "request.method": ":method",
    "request.host": ":authority",
    "request.scheme": ":scheme",
}
_MAX_DEFAULTS = 2
"""Each header that may be missing doubles the ways to ask."""
_Action = route_components_pb2.RateLimit.Action


class Header(Struct, frozen=True):
    """A header's value."""

    name: str
    default: str = ""
    """What it is worth where it is missing; empty: it never is."""


class Said(Struct, frozen=True):
    """What the catalog says of the caller."""

    texts: tuple[tuple[str, tuple[int, ...]], ...]
    """Value → the numbers of the callers of whom it is said."""
    other: str
    """Of all others."""


Dimension = Cel | Header | Said


def header_of(expression: Expression) -> Header | None:
    """Return an expression as a header's value; None: it is another thing."""
    match expression:
        case Attribute(name=name) if name in ALWAYS:
            return Header(ALWAYS[name])
        case Call(function="|", operands=(left, Literal(value=str(default)))) if default:
            missing = header_name(left)
            return Header(missing, default) if missing else None
    return None


def header_name(expression: Expression) -> str | None:
    """Return the header that an expression asks for and that may be missing."""
    match expression:
        case Attribute(name=name):
            return OF_HEADERS.get(name)
        case Call(function="[]", operands=(Attribute(name="request.headers"), Literal(value=str(name)))):
            return name.lower() if _HEADER.fullmatch(name) else None
    return None


def lookups(first: Any, dimensions: Sequence[tuple[str, Dimension]], notes: Mapping[Said, str]) -> list[Any]:
    """Return the ways to ask for an action's word and then for dimensions; of each request one leads to a bucket.

    `notes` are the names under which what is said of callers is noted.
    """
    ways = product(*(list(_actions(key, dimension, notes)) for key, dimension in dimensions))
    place = headers_of(dimensions)
    return [route_components_pb2.RateLimit(actions=[*way[:place], first, *way[place:]]) for way in ways]


def headers_of(dimensions: Sequence[tuple[str, Dimension]]) -> int:
    """Return how many headers there are: they come first, so that a way that does not lead on ends early."""
    return sum(isinstance(one, Header) for _, one in dimensions)


def too_many(dimensions: Sequence[Dimension]) -> bool:
    """Tell whether there would be more ways to ask than it is worth."""
    return sum(isinstance(one, Header) and one.default != "" for one in dimensions) > _MAX_DEFAULTS


def in_words(key: str, value: str) -> Any:
    """Return the action that always says the same."""
    return _Action(generic_key={"descriptor_key": key, "descriptor_value": value})


def computed(key: str, value: Cel) -> Any:
    """Return the action that asks in CEL."""
    config: Any = expr_pb2.Descriptor(descriptor_key=key)
    # The same message under an older name: Envoy's field was there before CEL had a home of its own.
    config.parsed.ParseFromString(cel.expression(value).SerializeToString())
    extension = extension_pb2.TypedExtensionConfig(
        name="envoy.rate_limit_descriptors.expr", typed_config=packed(config)
    )
    return _Action(extension=extension)


def _actions(key: str, dimension: Dimension, notes: Mapping[Said, str]) -> Iterator[Any]:
    match dimension:
        case Header(name=name, default=default):
            yield _Action(request_headers={"header_name": name, "descriptor_key": key})
            if default:
                missing: Any = _Action(header_value_match={"descriptor_key": key, "descriptor_value": default})
                missing.header_value_match.expect_match.value = False
                missing.header_value_match.headers.add(name=name, present_match=True)
                yield missing
        case Said(other=other):
            noted: Any = _Action(metadata={"descriptor_key": key, "default_value": other})
            noted.metadata.metadata_key.key = METADATA
            noted.metadata.metadata_key.path.add(key=notes[dimension] + NOTE_SUFFIX)
            yield noted
        case _:
            yield computed(key, dimension)
