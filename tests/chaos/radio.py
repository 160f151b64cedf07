"""A radio station in a container of its own: `python -m tests.chaos.radio FILE` plays it as MP3."""

from __future__ import annotations

import io
import sys
import threading

import soundfile

from tests.fix_radio import Radio

PORT = 8000


def main() -> None:
    """Play the recording, over and over, to whoever asks."""
    samples, rate = soundfile.read(sys.argv[1])
    written = io.BytesIO()
    soundfile.write(written, samples, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.8)
    Radio("0.0.0.0", PORT).live("/live", written.getvalue(), len(samples) / rate)
    threading.Event().wait()


if __name__ == "__main__":
    main()
