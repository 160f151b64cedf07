"""Fetching audio from the network, behind a fence: what is connected to is what was checked."""
