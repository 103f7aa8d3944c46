"""The runner agent: runs attempts on one machine and tells everything about them."""
