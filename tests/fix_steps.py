"""What the code says of itself: its named steps, and where it writes, read off the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
READS = {"FCALL_RO", "HGET", "HMGET", "INFO", "XINFO", "XRANGE", "XREAD", "XREVRANGE"}
"""Commands that write nothing; a call whose command cannot be told from the code is taken for a write."""


@cache
def tree(path: str) -> ast.Module:
    """The syntax tree of a module, by its path in the project."""
    return ast.parse((ROOT / path).read_text("utf-8"))


def modules(place: str) -> list[str]:
    """A module, or all of a package, by path."""
    if place.endswith(".py"):
        return [place]
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / place).rglob("*.py"))


def steps_in(*places: str) -> list[str]:
    """The names of all steps in the packages' or modules' code; each is said literally, in one place."""
    found: list[str] = []
    for path in [path for place in places for path in modules(place)]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "step":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}: a step has a literal name"
                found.append(str(name.value))
    return found


def on_the_way(*starts: str) -> list[str]:
    """The modules of `streams` and `projections` that these import, themselves and whatever those import."""
    left, found = list(starts), set[str]()
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += [name for name in _imported(path) if (ROOT / name).is_file()]
    return sorted(found)


def _imported(path: str) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("streams", "projections"):
                yield name.replace(".", "/") + ".py"


class Said(NamedTuple):
    """A step, a write, or another call, where the code says it; `what` is the call's own text."""

    line: int
    column: int
    kind: str
    what: str


def said_in(path: str) -> dict[str, list[Said]]:
    """What each function of a module says, as `said_of` tells it."""
    return said_of(tree(path))


def said_of(module: ast.Module) -> dict[str, list[Said]]:
    """What each function says, in the order of the text, by the function's full name.

    A function within another is one of its own.
    """
    found: dict[str, list[Said]] = {}

    def look(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
            elif isinstance(child, ast.Call):
                said = Said(child.lineno, child.col_offset, _kind(child), ast.unparse(child.func))
                found.setdefault(name, []).append(said)
            look(child, inner)

    look(module, "")
    return {name: sorted(said) for name, said in found.items()}


def _kind(call: ast.Call) -> str:
    """`step`, `write` (on a link, or a transaction), or `call`."""
    if isinstance(call.func, ast.Name):
        return {"step": "step", "lasting": "write"}.get(call.func.id, "call")
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name == "call":
        return "call" if _reads(call.args) else "write"
    if name == "batch":
        commands = call.args[0] if call.args else None
        listed = isinstance(commands, ast.List | ast.Tuple) and all(
            isinstance(one, ast.List | ast.Tuple) and _reads(one.elts) for one in commands.elts
        )
        return "call" if listed else "write"
    # A handler's `begin` is given something, that of a database nothing.
    return "write" if name in ("begin", "begin_nested") and not call.args else "call"


def _reads(words: list[ast.expr]) -> bool:
    """Whether a command's first word says that it writes nothing."""
    return bool(words) and isinstance(words[0], ast.Constant) and words[0].value in READS
