"""Reads the structure of the house from its source: who imports whom, and how large everything is."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = "s2l_nemo"
HEAVY = {"nemo", "nemo_aligner", "megatron", "lightning"}
MAY_IMPORT_HEAVY = {"actor", "platform"}
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 450

Imports = Mapping[str, set[str]]  # module of the package -> modules that it imports, both without `s2l_nemo.`
Rooms = Mapping[str, set[str]]  # room -> rooms that it may use, lower floors first


def read_sources(root: Path) -> dict[str, ast.Module]:
    """Every module of the package in `root` that holds code, by its name without `s2l_nemo.`."""
    sources = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(root / PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        source = ast.parse(path.read_text(encoding="utf-8"))
        if name and source.body:
            sources[name] = source
    return sources


@cache
def named_imports(source: ast.Module) -> tuple[str, ...]:
    """Full names of all that a file imports, anywhere in it, and of modules that it names in a text `pkg.mod:name`."""
    return tuple(_named_imports(source))


def _named_imports(source: ast.Module) -> Iterator[str]:
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, name = node.value.partition(":")
            if colon and name.isidentifier() and module.startswith(f"{PACKAGE}."):
                yield module


def imports_of(sources: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """The modules of the package that each module imports."""
    found = {}
    for module, source in sources.items():
        names = {name.removeprefix(f"{PACKAGE}.") for name in named_imports(source) if name.startswith(f"{PACKAGE}.")}
        found[module] = (names & sources.keys()) - {module}
    return found


def room_of(module: str, rooms: Iterable[str]) -> str | None:
    """The smallest room that holds the module."""
    holding = [room for room in rooms if module == room or module.startswith(f"{room}.")]
    return max(holding, key=len, default=None)


def used_rooms(imports: Imports, rooms: Rooms) -> dict[str, set[str]]:
    """The other rooms that each room uses."""
    used: dict[str, set[str]] = {room: set() for room in rooms}
    for module, targets in imports.items():
        room = room_of(module, rooms)
        if room is not None:
            used[room] |= {other for target in targets if (other := room_of(target, rooms)) not in (room, None)}
    return used


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, set())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def faults(sources: Mapping[str, ast.Module], rooms: Rooms) -> list[str]:
    """Everything that breaks the order of the house, one line each."""
    imports = imports_of(sources)
    order = list(rooms)
    lines = []
    for room, permitted in rooms.items():
        unknown = sorted(permitted - rooms.keys())
        up = sorted(other for other in permitted & rooms.keys() if order.index(other) >= order.index(room))
        lines += [f"{room} may use {other}, which is no room" for other in unknown]
        lines += [f"{room} may use {other}, which is not below it" for other in up]
    for module in imports:
        if room_of(module, rooms) is None:
            lines.append(f"{module} is in no room")
    for room, used in used_rooms(imports, rooms).items():
        lines += [f"{room} uses {other} without permission" for other in sorted(used - rooms[room])]
        lines += [f"{room} may use {other} and does not" for other in sorted(rooms[room] - used)]
    lines += [f"circle: {' -> '.join(circle)}" for circle in circles(imports)]
    for module, source in sources.items():
        heavy = sorted({name.split(".")[0] for name in named_imports(source)} & HEAVY)
        if heavy and module.split(".")[0] not in MAY_IMPORT_HEAVY:
            lines.append(f"{module} imports {', '.join(heavy)}")
    return lines


def too_large(path: Path) -> list[str]:
    """Functions and files over the limits, one line each."""
    text = path.read_text(encoding="utf-8")
    lines = [f"{path.name} has {text.count(chr(10))} lines"] if text.count("\n") > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                lines.append(f"{path.name}: {node.name} has {length} lines")
    return lines
