"""Values by key, each a function of other values; a change is followed along what was read, and no further. Pure.

A flow is made once, of nodes in order, and brought up to date with `refresh` each time its sources have changed:

- `Shared`: one value that many read, `Source`: values by key; both are set from outside;
- `Stage`: for each key of another node a function of it, which reads earlier nodes by `node.get(key)`;
- `Asked`: the same for keys that nobody lists: for those that are read;
- `Gathered`: what the values of another node say of other keys, by those keys.

What a function reads is noted, so it need not be declared: the function runs again for a key when something that it has
read for this key became another value. An equal value counts as the same. None stands for no value: such a key
does not exist. A function may read earlier nodes only, may keep nothing and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from agent.flow.ordered import Block, Ordered
from agent.flow.table import changed_keys

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
E = TypeVar("E")
Who = TypeVar("Who", bound=Hashable)

_Reader = tuple["_Function[Any, Any]", Hashable]
"""A node's function at one key."""
Sink = Callable[[Any, Any, Any], None]
"""Is told key, old and new value of each change; None: there is none."""


class Flow:
    """The nodes in order, and whose function runs at the moment."""

    def __init__(self) -> None:
        self._nodes: list[_Computed[Any, Any]] = []
        self._running: list[_Reader] = []

    def refresh(self) -> None:
        """Bring every node up to date. If a function raises, the flow can't be used any more."""
        for node in self._nodes:
            node.refresh()

    def add(self, node: _Computed[Any, Any]) -> int:
        """Take a node as the last one; return its position."""
        self._nodes.append(node)
        return len(self._nodes)

    @property
    def reader(self) -> _Reader | None:
        """Return whose function runs."""
        return self._running[-1] if self._running else None

    def run(self, reader: _Reader, build: Callable[[Any], V]) -> V:
        """Run a node's function for a key; what it reads meanwhile is noted."""
        self._running.append(reader)
        try:
            return build(reader[1])
        finally:
            self._running.pop()


class Shared(Generic[V]):
    """One value that every key may depend on."""

    def __init__(self, flow: Flow, value: V) -> None:
        self._flow = flow
        self._value = value
        self._readers: set[_Function[Any, Any]] = set()

    def set(self, value: V) -> None:
        """Make this the value."""
        if value is not self._value and value != self._value:
            self._value = value
            for node in self._readers:
                node.look_at_all()

    def get(self) -> V:
        """Return the value; noted for the node that runs, with all of its keys."""
        reader = self._flow.reader
        if reader is not None:
            self._readers.add(reader[0])
        return self._value


class Node(Generic[K, V]):
    """Values by key that others can read."""

    position = 0
    """In the flow; what comes from outside stands before everything."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._values: dict[K, V] = {}
        self._along: dict[_Function[Any, Any], None] = {}
        """Nodes that read it by their own key, or have its keys."""
        self._readers: dict[K, set[_Reader]] = {}
        self._sinks: list[Sink] = []

    def get(self, key: K) -> V | None:
        """Return the value of a key, None if there is none; noted for the function that runs."""
        self._note(key)
        return self._values.get(key)

    def __getitem__(self, key: K) -> V:
        """Return the value of a key that exists; noted for the function that runs."""
        self._note(key)
        return self._values[key]

    def __iter__(self) -> Iterator[K]:
        """Yield the keys; not to be used in functions, which would not be told of new ones."""
        return iter(self._values)

    def has(self, key: K) -> bool:
        """Tell whether there is such a key, without a note."""
        return key in self._values

    def values(self) -> Mapping[K, V]:
        """Return everything, without a note."""
        return self._values

    def lead(self, node: _Function[Any, Any]) -> None:
        """Have that node look at each key that is here, and at each that changes."""
        self._along[node] = None
        for key in self._values:
            node.look_at(key)

    def tell(self, sink: Sink) -> None:
        """Have that sink told of each value that is here, and of each change from now on."""
        self._sinks.append(sink)
        for key, value in self._values.items():
            sink(key, None, value)

    def forget_reader(self, key: K, reader: _Reader) -> None:
        """Forget that a function has read a key."""
        readers = self._readers.get(key)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self._readers[key]

    def _note(self, key: K) -> None:
        reader = self._flow.reader
        if reader is None:
            return
        if reader[0].position <= self.position:
            raise RuntimeError("a function has read a node that is computed after its own")
        if reader[1] is key:
            self._along[reader[0]] = None
        elif reader not in (readers := self._readers.setdefault(key, set())):
            readers.add(reader)
            reader[0].has_read(reader[1], self, key)

    def put(self, key: K, value: V | None) -> None:
        """Take over a value that is another one; None: there is none any more. For the nodes themselves."""
        old = self._values.get(key)
        if value is None:
            del self._values[key]
        else:
            self._values[key] = value
        for node in self._along:
            node.look_at(key)
        for node, own in self._readers.get(key, ()):
            node.look_at(own)
        for sink in self._sinks:
            sink(key, old, value)


class Source(Node[K, V]):
    """Values that come from outside; an object that is the same has not changed."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self._given: Mapping[K, V] = {}

    def set(self, values: Mapping[K, V]) -> None:
        """Make these the values, which may not change any more; quick if they are a Table made from those before."""
        before, self._given = self._given, values
        for key in changed_keys(before, values):
            value = values.get(key)
            if value is not None or key in self._values:
                self.put(key, value)


class _Computed(Node[K, V]):
    """A node that is brought up to date in its turn."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self.position = flow.add(self)

    def refresh(self) -> None:
        """Compute what has to be computed again."""
        raise NotImplementedError


class _Function(_Computed[K, V]):
    """A function of each key."""

    def __init__(self, flow: Flow, build: Callable[[K], V | None]) -> None:
        super().__init__(flow)
        self._build = build
        self._read: dict[K, list[tuple[Node[Any, Any], Hashable]]] = {}
        self._due: dict[K, None] = {}

    def look_at(self, key: K) -> None:
        """Compute this key again."""
        self._due[key] = None

    def look_at_all(self) -> None:
        """Compute everything again."""
        self._due.update(dict.fromkeys(self._values))

    def has_read(self, key: K, node: Node[Any, Any], other: Hashable) -> None:
        """Note what the function has read for a key."""
        self._read.setdefault(key, []).append((node, other))

    def _compute(self, key: K) -> V | None:
        """Return the function's value; the old object if it is equal."""
        self._forget_reads(key)
        value = self._flow.run((self, key), self._build)
        old = self._values.get(key)
        return old if old == value else value

    def _forget_reads(self, key: K) -> None:
        for node, other in self._read.pop(key, ()):
            node.forget_reader(other, (self, key))

    def _change(self, key: K, value: V | None) -> None:
        if value is not self._values.get(key):
            self.put(key, value)


class Stage(_Function[K, V]):
    """For each key that one of the nodes `over` has, a function of it."""

    def __init__(
        self, flow: Flow, over: Node[K, Any] | tuple[Node[K, Any], ...], build: Callable[[K], V | None]
    ) -> None:
        super().__init__(flow, build)
        self._over = over if isinstance(over, tuple) else (over,)
        self._absent: set[K] = set()
        """Keys for which the function says that there is no value."""
        for node in self._over:
            node.lead(self)

    def look_at_all(self) -> None:
        """Compute everything again."""
        super().look_at_all()
        self._due.update(dict.fromkeys(self._absent))

    def refresh(self) -> None:
        """Compute what has to be computed again."""
        due, self._due = self._due, {}
        for key in due:
            exists = any(node.has(key) for node in self._over)
            if exists:
                value = self._compute(key)
            else:
                self._forget_reads(key)
                value = None
            (self._absent.add if exists and value is None else self._absent.discard)(key)
            self._change(key, value)


class Asked(_Function[K, V]):
    """A function of each key that is asked for, and forgotten once nobody asks for it any more."""

    def __init__(self, flow: Flow, build: Callable[[K], V | None]) -> None:
        super().__init__(flow, build)
        self._known: set[K] = set()

    def get(self, key: K) -> V | None:
        """Return the value of a key; noted for the function that runs."""
        if key not in self._known:
            self._known.add(key)
            self._change(key, self._compute(key))
        self._note(key)
        return self._values.get(key)

    def look_at_all(self) -> None:
        """Compute everything again."""
        self._due.update(dict.fromkeys(self._known))

    def forget_reader(self, key: K, reader: _Reader) -> None:
        """Forget that a function has read a key, and in the next turn the key itself if it was the last one."""
        super().forget_reader(key, reader)
        if key not in self._readers:
            self._due[key] = None

    def refresh(self) -> None:
        """Compute what has to be computed again."""
        due, self._due = self._due, {}
        for key in due:
            if key in self._readers:
                self._change(key, self._compute(key))
            else:
                self._forget_reads(key)
                self._known.discard(key)
                self._values.pop(key, None)

    def _note(self, key: K) -> None:
        reader = self._flow.reader
        if reader is not None and reader not in (readers := self._readers.setdefault(key, set())):
            readers.add(reader)
            reader[0].has_read(reader[1], self, key)


class Gathered(_Computed[K, Mapping[Who, E]], Generic[K, Who, E]):
    """Key → who says something of it → what, in order of who; a key of which nobody says anything doesn't exist.

    Who is a key of one of the nodes gathered from, which must differ; `of` tells what a value says of which keys.
    """

    def __init__(
        self, flow: Flow, sources: Node[Who, Any] | tuple[Node[Who, Any], ...], of: Callable[[Who, Any], Mapping[K, E]]
    ) -> None:
        super().__init__(flow)
        self._of = of
        self._said: dict[Who, Mapping[K, E]] = {}
        self._due: dict[K, dict[Who, E | None]] = {}
        for node in sources if isinstance(sources, tuple) else (sources,):
            node.tell(self._take)

    def refresh(self) -> None:
        """Take over what was said since the last time."""
        due, self._due = self._due, {}
        for key, changes in due.items():
            before = self._values.get(key)
            known: Ordered[Who, E] = before if isinstance(before, Ordered) else Ordered()
            members = known.with_changes(changes)
            if members or known:
                self.put(key, members or None)

    def blocks(self, key: K) -> tuple[Block[Who, E], ...]:
        """Return what is said of a key, in blocks; noted for the function that runs."""
        found = self.get(key)
        return found.blocks if isinstance(found, Ordered) else ()

    def _take(self, owner: Who, _old: Any, value: Any) -> None:
        before = self._said.pop(owner, {})
        now = {} if value is None else self._of(owner, value)
        if now:
            self._said[owner] = now
        for key, said in now.items():
            if (known := before.get(key)) is not said and known != said:
                self._due.setdefault(key, {})[owner] = said
        for key in before:
            if key not in now:
                self._due.setdefault(key, {})[owner] = None
