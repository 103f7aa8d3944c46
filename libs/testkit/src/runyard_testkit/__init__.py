"""What the tests of every package share: real engines and the given-when-then of deciders."""

from runyard_testkit.engines import Bucket, Bus, Database, connected, seen_by_server
from runyard_testkit.scenario import Outcome, Scenario, given

__all__ = ["Bucket", "Bus", "Database", "Outcome", "Scenario", "connected", "given", "seen_by_server"]
