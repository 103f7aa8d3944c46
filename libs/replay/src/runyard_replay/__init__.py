"""What the event log adds up to: pure folds, and questions to a log that are answered with them."""
