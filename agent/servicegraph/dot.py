"""The graph in Graphviz' language, and drawn by its `dot`. Names come from outside: all of them are quoted."""

from __future__ import annotations

import asyncio
import shutil

from agent.errors import HostError
from agent.servicegraph.graph import Edge, Graph

DRAWING_SECONDS = 20.0
GOOD_SHARE, BAD_SHARE = 0.001, 0.05
"""Shares of errors from which on an edge is amber, and red."""


def dotgraph(graph: Graph) -> str:
    """Return the graph as a `digraph`."""
    nodes = [f"  {_quoted(name)};" for name in graph.nodes]
    edges = [
        f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(_label(edge))}, color={_color(edge)}];"
        for edge in graph.edges
    ]
    head = '  graph [rankdir=LR, fontname="sans-serif"];\n  node [shape=box, style=rounded, fontname="sans-serif"];'
    return "\n".join(
        ['digraph "servicegraph" {', head, '  edge [fontname="sans-serif", fontsize=10];', *nodes, *edges, "}", ""]
    )


async def draw(text: str) -> bytes:
    """Return the SVG that `dot` makes of it; raises HostError."""
    program = shutil.which("dot")
    if program is None:
        raise HostError("dot is missing: install Graphviz (`apt-get install graphviz`), or take /dotgraph")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, "-Tsvg", stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(DRAWING_SECONDS):
            picture, complaint = await process.communicate(text.encode())
    except TimeoutError as error:
        raise HostError(f"dot: not done after {DRAWING_SECONDS:g} s; the graph is too large: take /graph") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise HostError(f"dot: {' '.join(complaint.decode(errors='replace').split())[:200]}")
    return picture


def _label(edge: Edge) -> str:
    return "\n".join(f"{name}: {value}" for name, value in edge.labels.items())


def _color(edge: Edge) -> str:
    return "firebrick" if edge.errors >= BAD_SHARE else "darkorange" if edge.errors >= GOOD_SHARE else "seagreen"


def _quoted(text: str) -> str:
    """Return a quoted ID of the DOT language; backslashes would be escapes of labels there."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
