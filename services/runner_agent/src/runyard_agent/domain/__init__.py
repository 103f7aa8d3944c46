"""The pure part of the agent: nothing here does I/O, reads a clock or draws a random number."""
