"""Audio in: sources, meters, and the worker that executes commands and supervises sources."""
