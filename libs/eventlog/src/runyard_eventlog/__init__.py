"""The event log: the port, its implementations, the bus mirror, subscribers and projectors."""
