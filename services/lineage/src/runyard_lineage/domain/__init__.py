"""Pure rules: how things of the graph are named, and what is missing from a record."""
