"""However many threads the ingest process has, their memory comes from few heaps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from ingest.heap import HEAPS

COUNT = """
import ctypes, sys, threading
from ingest.heap import share_heaps

if sys.argv[1] == "few":
    share_heaps()
libc, together = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

def take():
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has several heaps")
def test_all_threads_share_heaps() -> None:
    def heaps(how: str) -> int:
        told = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
        return told.stdout.count("<heap nr=")

    assert heaps("few") == HEAPS
    assert heaps("several") > HEAPS, "this shows nothing here"
