"""The callers that an object is for by its `exportTo`. Pure."""

from __future__ import annotations

from agent.api.envelope import Document


def exported_to(document: Document) -> tuple[str, ...]:
    """Return the namespaces whose callers see the object, sorted; () means all, `~` is nobody's."""
    named = document.spec.get("exportTo") or ()
    return () if "*" in named else tuple(sorted(document.namespace if name == "." else name for name in named))
