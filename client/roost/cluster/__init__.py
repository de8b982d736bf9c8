"""Names and where they live: ids, shards."""
