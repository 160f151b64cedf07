"""The source of the server-side functions: one Redis Functions library, `tocsin`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from streams.messages import digest

NAME = "tocsin"

_VERSION = """redis.register_function{function_name = 'tocsin_version', flags = {'no-writes'},
  callback = function() return '%s' end}"""


@cache
def source() -> str:
    """The library's Lua source: the shared part, every function, and one that tells its version."""
    folder = files("streams") / "functions"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".lua"))
    names.remove("shared.lua")
    parts = [(folder / name).read_text("utf-8") for name in ["shared.lua", *names]]
    body = "\n".join(parts)
    return f"#!lua name={NAME}\n{body}\n{_VERSION % digest(body.encode())[:16]}\n"


def version() -> str:
    """The version of the functions that this code was written with."""
    return source().rsplit("return '", 1)[1].split("'", 1)[0]
