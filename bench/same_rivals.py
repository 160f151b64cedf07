"""Other decoders on the same audio, as Debian ships them: multimon-ng and minimodem."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import av
import numpy as np
import soundfile

from bench.same_air import RATE, Samples, Sent

RIVALS = ("multimon-ng", "minimodem")


def present() -> list[str]:
    """Those that are installed."""
    return [name for name in RIVALS if shutil.which(name)]


def headers(name: str, sent: Sent) -> list[str]:
    """The messages that it reports, in their order."""
    with tempfile.NamedTemporaryFile(suffix=".raw" if name == "multimon-ng" else ".wav") as file:
        path = Path(file.name)
        if name == "multimon-ng":
            write_raw(path, sent.samples, sent.rate)
            return multimon(path)[0]
        soundfile.write(path, sent.samples, sent.rate, subtype="PCM_16")
        return _minimodem(path)


def write_raw(path: Path, samples: Samples, rate: int) -> None:
    """What multimon-ng reads: 16 bits, mono, 22,050 Hz."""
    if rate != RATE:
        change = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="flt", layout="mono")
        frame.rate = rate
        out = [*change.resample(frame), *change.resample(None)]
        samples = np.concatenate([part.to_ndarray()[0] for part in out])
    path.write_bytes(np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes())


def multimon(path: Path) -> tuple[list[str], float]:
    """Its messages (it compares the bursts itself), and the processor seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        ("multimon-ng", "-q", "-t", "raw", "-a", "EAS", str(path)), capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = ran.stdout.decode("latin-1").splitlines()
    return [line.removeprefix("EAS: ") for line in lines if line.startswith("EAS: ZCZC")], took


def _minimodem(path: Path) -> list[str]:
    """What it wrote at least twice: it reports bursts, and leaves comparing to its reader."""
    ran = subprocess.run(
        ("minimodem", "--rx", "same", "--quiet", "-f", str(path)), capture_output=True, check=True
    )
    found = re.findall(r"ZCZC-[^+]*\+[^-]*-[^-]*-.{8}-", ran.stdout.decode("latin-1"), re.DOTALL)
    return [text for text, count in Counter(found).items() if count >= 2]
