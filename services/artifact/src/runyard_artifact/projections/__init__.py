"""What the artifact service shows: pure folds of the log into tables."""
