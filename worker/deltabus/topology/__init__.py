"""Which Redis, and how it is reached: one server, Sentinel's current master, or the nodes of a Cluster.

`redisurl` reads the URL, `clients` makes what speaks to it, and `ownconnection` what speaks for one user alone.
`discovery` finds a master by its `guides`: `sentinels`, or a `cluster` that knows who owns which of the `slots`. There,
`routing` leads commands to their nodes, with the scripts of `clusterscripts`, and `listening` hears sharded messages.
`certificates` tells what is wrong with TLS.
"""
