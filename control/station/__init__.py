"""The local station: the real servers and the processes of one Tocsin on one machine."""
