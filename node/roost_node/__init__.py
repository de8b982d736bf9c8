"""A storage node: hosts the live objects of its shards and keeps what they commit."""
