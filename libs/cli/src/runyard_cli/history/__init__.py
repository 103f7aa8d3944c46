"""What ``runyard history`` asks and shows; imported only by it."""
