"""What Mixer's rules name that is not there. Pure; where it is looked for is the caller's to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.api.envelope import Document
from agent.api.lowering.mixer import full_name
from agent.api.specs.mixer_rule import read_name
from agent.mesh.routes import ObjectRef


def missing_parts(rule: Document, is_there: Callable[[ObjectRef], bool]) -> Iterator[tuple[str, str]]:
    """Yield the place and the full name of each handler and instance that a valid rule names and that is not there."""
    for index, action in enumerate(rule.spec["actions"]):
        place = f"spec.actions[{index}]"
        named = [(f"{place}.handler", action["handler"])]
        named += [(f"{place}.instances[{number}]", text) for number, text in enumerate(action["instances"])]
        for path, text in named:
            name = read_name(text, rule.namespace)
            if name is not None and not is_there(ObjectRef(name.kind, name.namespace, name.name)):
                yield path, full_name(name)
