"""From the command line to objects: everything of the project that uses Hydra.

`request` parses a command, and answers or refuses it. Neither `request` nor its imports import JAX,
so that this is quick. `launcher` runs the remaining commands, and imports the rest.
"""
