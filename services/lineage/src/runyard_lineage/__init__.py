"""The lineage service: where everything came from, the whole record of a run, and the log itself."""
