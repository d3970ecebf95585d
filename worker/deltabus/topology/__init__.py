"""Which Redis, and how it is reached: one server, Sentinel's current master, or the nodes of a Cluster.

`redisurl` reads the URL, `clients` makes what speaks to it, `discovery` finds a master, `cluster` and `shards` the node
that has a key or a channel.
"""
