"""From events to the rows that queries read: pure."""
