"""A provider that needs no server: deterministic, offline, scripted by the request."""
