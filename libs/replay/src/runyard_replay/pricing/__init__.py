"""What leases cost: pure functions, integers only."""
