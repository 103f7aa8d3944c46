"""What the scheduler does on its own: pure views over the log, and what is due."""
