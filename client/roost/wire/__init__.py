"""What callers and owners say to each other, as plain values: no network, no protobuf."""
