"""Replication in action: the streams between nodes, around the cores in `core/replication`."""
