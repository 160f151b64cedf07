"""The hall: everything that travels between the rooms, and everything that carries it.

Message types, signing, connection, lanes, append, consumer groups, replies and replay.
It knows nothing of audio or of SQL.
"""
