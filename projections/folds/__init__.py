"""Folds: pure functions that turn a lane's events into rows."""
