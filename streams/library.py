"""The server-side functions: one library, `tocsin`, loaded on the primary and replicated with the data."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from redis.exceptions import ResponseError

from streams.connection import Link
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


def loaded_version(link: Link) -> str | None:
    """The version of the functions on the primary, or None where there are none."""
    try:
        reply: bytes = link.call("FCALL_RO", "tocsin_version", 0)
    except ResponseError as error:
        if "Function not found" in str(error):
            return None
        raise
    return reply.decode()


def load_library(link: Link) -> None:
    """Load the functions on the primary, unless this version is already there."""
    if loaded_version(link) != version():
        link.call("FUNCTION", "LOAD", "REPLACE", source())
