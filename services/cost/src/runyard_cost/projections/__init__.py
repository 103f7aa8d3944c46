"""What the cost service keeps: pure folds of the log into tables."""
