"""What the artifact service decides: pure functions over events and requests."""
