"""What Envoy's JWT filter knows of a request's token, and matchers of it. Pure.

The filter puts the token's payload into the request's metadata; policies and routes look at it there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.type.matcher.v3 import metadata_pb2, value_pb2

from agent.mesh.routes import CLAIMS
from agent.translate.patterns import pattern

JWT_FILTER = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"
"""Where the payload of whichever token was verified last stands."""


def metadata_matcher(owner: str, path: Iterable[str], value: Any) -> Any:
    """Return a matcher (envoy.type.matcher.v3.MetadataMatcher) of what a filter has noted."""
    matcher = metadata_pb2.MetadataMatcher(filter=owner, value=value)
    for key in path:
        matcher.path.add(key=key)
    return matcher


def claim_matcher(path: Iterable[str], value: str) -> Any:
    """Return a matcher of a claim that is a text, or a list with such a text in it."""
    return text_matcher(path, pattern(value))


def text_matcher(path: Iterable[str], matcher: Any) -> Any:
    """Return a matcher of a claim by any comparison of texts."""
    text = value_pb2.ValueMatcher(string_match=matcher)
    listed = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=text))
    either = value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=[text, listed]))
    return metadata_matcher(JWT_FILTER, (PAYLOAD, *path), either)


def claim_path(name: str) -> tuple[str, ...]:
    """Return where the claim is that a route's `@request.auth.claims.a.b` or `@request.auth.claims[a][b]` means."""
    rest = name[len(CLAIMS) :]
    if rest.startswith("["):
        return tuple(rest.strip("[]").split("]["))
    return tuple(part for part in rest.split(".") if part)


def principal_matchers(value: str) -> list[tuple[Any, ...]]:
    """Return the ways in which `ISSUER/SUBJECT` can be the value; of each all parts must hold.

    Either part may have slashes in it, so each slash of the value may be the one between them.
    """
    found = []
    for place in (place for place, letter in enumerate(value) if letter == "/"):
        issuer, subject = value[:place], value[place + 1 :]
        found.append((claim_matcher(("iss",), issuer), claim_matcher(("sub",), subject)))
    if value == "*" or (value.endswith("*") and not value.startswith("*")):
        found.append((claim_matcher(("iss",), value), claim_matcher(("sub",), "*")))
    elif value.startswith("*"):
        found.append((claim_matcher(("iss",), "*"), claim_matcher(("sub",), value)))
    return found or [(claim_matcher(("iss",), value), claim_matcher(("sub",), ""))]
