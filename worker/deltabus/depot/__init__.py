"""Where bytes come from and go to, on the worker's side: `Depot`, which handlers reach as `context.depot`."""

from deltabus.depot.depot import Depot

__all__ = ["Depot"]
