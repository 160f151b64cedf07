"""Decoding what comes from outside in a process of its own per source: if it breaks, it breaks alone."""
