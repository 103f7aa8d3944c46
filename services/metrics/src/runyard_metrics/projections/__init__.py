"""Pure folds of both lanes of the log into the tables of the metrics service."""
