"""What a node may listen to, as its own configuration says: no command can widen it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from streams.names import PIPE_NAME

Positive = Annotated[float, msgspec.Meta(gt=0, le=3600)]
PipeName = Annotated[str, msgspec.Meta(pattern=rf"\A{PIPE_NAME.pattern}\Z")]
Host = Annotated[str, msgspec.Meta(pattern=r"\A(\*\.)?[a-z0-9.:_-]+\Z")]


class FetchSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[fetch]`: what may be fetched from the network for `stream` sources.

    `hosts` are names, or `*.example.org` for all below it; without any, every host may be asked.
    `private` lists the networks (`192.168.1.0/24`) that may be asked although they are not public.
    `credentials_directory` has a file per host, named for it, with `user:password`.
    `playlist_bytes` and `segment_bytes` bound one playlist or key, and one segment of HLS. A connection
    over which nothing comes is stalled after `stalled_after` seconds, and given up after `give_up_after`.
    """

    schemes: tuple[Literal["http", "https", "rtp"], ...] = ("http", "https", "rtp")
    hosts: tuple[Host, ...] = ()
    private: tuple[str, ...] = ()
    credentials_directory: str = ""
    ca_file: str = ""
    redirects: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5
    playlist_bytes: Annotated[int, msgspec.Meta(ge=1_000, le=16_777_216)] = 1_048_576
    segment_bytes: Annotated[int, msgspec.Meta(ge=10_000, le=1_073_741_824)] = 67_108_864
    connect_within: Positive = 10.0
    stalled_after: Positive = 10.0
    give_up_after: Positive = 30.0


class PipeSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[pipes.NAME]`: a program that writes PCM to its standard output, and what PCM that is.

    `command` is the program and its arguments; no shell reads it. `rate` is in Hz, `format` that of one
    sample, little-endian, channels interleaved.
    """

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[int, msgspec.Meta(ge=6_000, le=768_000)]
    channels: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    format: Literal["s16le", "s32le", "f32le"] = "s16le"


Pipes = Mapping[PipeName, PipeSection]


def wrong_networks(fetch: FetchSection) -> tuple[str, str] | None:
    """The field and what is wrong with it, where `private` holds what is no network; None where all are."""
    for network in fetch.private:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            return "fetch.private", f"{network!r} is no network like 192.168.1.0/24: {error}"
    return None
