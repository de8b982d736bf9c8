"""Where shards should be: the ring, the plan, and the wishes by which owners carry it out."""
