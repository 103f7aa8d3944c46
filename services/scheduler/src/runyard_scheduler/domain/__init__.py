"""What the scheduler decides: pure, one file for each stream category, and placement."""
