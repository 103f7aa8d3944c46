"""The cost service: a price book, and what runs and projects cost by it."""
