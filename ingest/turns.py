"""Whose turn it is to compute.

The interpreter runs one thread at a time, but numpy lets it go in every larger step and must have it again
afterwards. With a hundred sources each of those steps waits behind many others, and nearly all time goes
into handing it on: then the meters, with many steps in a row, take seconds for what is due in a tenth.
So only one thread at a time is in the midst of such work. Who holds the turn must wait for nothing.
"""

from __future__ import annotations

import threading

TURN = threading.Lock()
