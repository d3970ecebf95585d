"""How a worker is seen from outside: metrics and health, of all processes under one supervisor.

Each process writes on its `board`, and notes its `pulse`; the `roster` knows the processes. `lookout` tells stuck from
idle, `health` sums up, `metrics` counts what `catalogue` names, `statusserver` shows it all by HTTP. `instruments`
puts them together for a worker.
"""
