"""From the command line to objects: everything of the project that speaks Hydra.

`request`, and what it imports, understands a command and answers or refuses it: no JAX there.
`launcher` runs what is left, and imports all the rest.
"""
