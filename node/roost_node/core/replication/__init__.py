"""How a shard's log comes to be on several disks, and who may speak for it: rules, no I/O.

`replicas.py` is the door: all shards of one node. Behind it, a shard is an `Owner` or a `Follower`; what
nodes promise each other is in `promises.py` (given) and `cover.py` (received).
"""
