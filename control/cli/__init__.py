"""The verbs of the `tocsin` command, a module for each noun."""
