"""The scheduler: queues runs, places them on nodes, grants leases and hears the agents."""
