"""What a check found: the part, how it is, and what to do about it."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "warning", "trouble"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: the part, the verdict, what is so, and what to do where that is not well."""

    part: str
    verdict: Verdict
    told: str
    next: str = ""


def ok(part: str, told: str) -> Finding:
    """A part that is well."""
    return Finding(part=part, verdict="ok", told=told)


def warning(part: str, told: str, next: str) -> Finding:
    """A part that does its work, but not as it should, or not for long."""
    return Finding(part=part, verdict="warning", told=told, next=next)


def trouble(part: str, told: str, next: str) -> Finding:
    """A part that does not do its work."""
    return Finding(part=part, verdict="trouble", told=told, next=next)
