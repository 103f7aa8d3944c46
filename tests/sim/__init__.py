"""The whole yard in one process, with a seeded chance and a virtual clock; see README.md."""
