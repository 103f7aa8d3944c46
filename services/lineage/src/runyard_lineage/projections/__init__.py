"""The pure fold of the log into the provenance graph."""
