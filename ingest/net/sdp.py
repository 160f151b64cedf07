"""What an SDP says of one stream of sound by RTP, and no more: what was read and checked is written anew."""

from __future__ import annotations

import re

import msgspec

from ingest.file_source import SourceFailed

_MEDIA = re.compile(r"m=audio (\d{1,5})(?:/\d+)? RTP/AVP (\d{1,3})(?: \d{1,3})*")
_ADDRESS = re.compile(r"c=IN IP([46]) ([0-9a-fA-F:.]+)(?:/\d{1,3})?(?:/\d{1,3})?")
_MAPPING = re.compile(r"a=rtpmap:(\d{1,3}) [A-Za-z0-9-]{1,30}/\d{4,6}(?:/\d{1,2})?")
_FORMAT = re.compile(r"a=fmtp:(\d{1,3}) [A-Za-z0-9=;,. /+_-]{1,1000}")


class Description(msgspec.Struct, frozen=True):
    """Where packets come in: the address and port, and the description with nothing else in it."""

    address: str
    port: int
    text: str


def parsed(text: str) -> Description:
    """The first stream of sound in an SDP. Raises SourceFailed."""
    lines = [line.strip() for line in text.splitlines()]
    media = next((found for line in lines if (found := _MEDIA.fullmatch(line))), None)
    if media is None:
        raise SourceFailed("the SDP describes no sound by RTP (m=audio PORT RTP/AVP …)")
    # What stands behind the line of the media is its own; what stands before the first is everybody's.
    at = lines.index(media[0])
    first = next((n for n, line in enumerate(lines) if line.startswith("m=")), at)
    end = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("m=")), len(lines))
    own = lines[at + 1 : end]
    connection = next((found for line in (*own, *lines[:first]) if (found := _ADDRESS.fullmatch(line))), None)
    if connection is None:
        raise SourceFailed("the SDP gives no IP address to receive at (c=IN IP4 ADDRESS)")
    port, kind = int(media[1]), media[2]
    if not 1024 <= port <= 65534:
        raise SourceFailed(f"the SDP wants port {port}; 1024 to 65534 can be received at")
    kept = [line for shape in (_MAPPING, _FORMAT) for line in own if _is_of(shape.fullmatch(line), kind)]
    written = [
        "v=0",
        f"o=- 0 0 IN IP{connection[1]} {connection[2]}",
        "s=-",
        connection[0],
        "t=0 0",
        f"m=audio {port} RTP/AVP {kind}",
        *kept,
    ]
    return Description(connection[2], port, "\r\n".join(written) + "\r\n")


def _is_of(found: re.Match[str] | None, kind: str) -> bool:
    return found is not None and found[1] == kind
