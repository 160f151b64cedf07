"""Telling people: rules find episodes, an outbox holds what goes out about each, senders deliver it."""
