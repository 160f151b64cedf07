"""The world of `bench ingest`: streams of MP3 over HTTP, each in its own time, over and over.

`python -m bench.transmitter FOLDER` serves FOLDER/N.mp3 at /N, says its port, and puts the time at which a
stream began into FOLDER/N.begun. Its CPU is nobody's who listens.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STEP = 0.1
KILOBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
"""Of MPEG-1, layer III, by the number in a frame's header."""
RATES = (44_100, 48_000, 32_000)
FRAME = 1152
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nConnection: close\r\n\r\n"


def frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The frames of an MP3 file with their rate, without the one that only describes it."""
    at = 0
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] & 0xFE == 0xFA:
        rate = RATES[data[at + 2] >> 2 & 3]
        length = 144_000 * KILOBITS[data[at + 2] >> 4] // rate + (data[at + 2] >> 1 & 1)
        frame = data[at : at + length]
        if b"Xing" not in frame and b"Info" not in frame:
            yield frame, rate
        at += length


async def _serve(folder: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        name = asked.split()[1].decode().strip("/")
        found = list(frames((folder / f"{name}.mp3").read_bytes()))
        writer.write(HEAD)
        begun = time.time()
        (folder / f"{name}.begun").write_text(repr(begun))
        sent = 0
        try:
            while not writer.is_closing():
                due = int((time.time() - begun) * found[0][1] / FRAME)
                writer.write(b"".join(found[number % len(found)][0] for number in range(sent, due)))
                await writer.drain()
                sent = due
                await asyncio.sleep(STEP)
        except ConnectionError:
            pass  # who listened has gone

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
