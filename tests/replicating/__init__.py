"""One node of the replication cores, for tests of owners."""
