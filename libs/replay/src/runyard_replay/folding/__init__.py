"""Events in, shown state out: pure functions, no I/O, clock or random."""
