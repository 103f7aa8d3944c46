"""What the cost service decides and computes: pure functions, integers only."""
