"""Intent in: submit, sign, confirm; the command line, the local station, the write API."""
