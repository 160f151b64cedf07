"""`python -m bench roundtrip|log|archive|projections|replay|dashboard|same|ingest …`; without a name, all."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

# Before numpy is there, as in the ingest process: see control/composition.py.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

NAMES = ("roundtrip", "log", "archive", "projections", "replay", "dashboard", "same", "ingest")


def main() -> int:
    """Run the named measurement with the arguments behind its name; 1 where one failed."""
    # Ended by `kill` or `timeout`, it still stops the servers that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    name, *rest = sys.argv[1:] or [""]
    if name in NAMES:
        return int(import_module(f"bench.{name}").main(rest))
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    codes = [int(import_module(f"bench.{one}").main(sys.argv[1:])) for one in NAMES]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
