"""The provenance graph: what each event says about it, and walks through it."""
