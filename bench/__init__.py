"""Measurements: what a confirmed command and a line of the log cost, beside what others take for it."""
