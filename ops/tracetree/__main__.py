"""`python -m tracetree`: play the scene, and print its trace."""

from __future__ import annotations

from tracetree.scene import play
from tracetree.tree import render

outcome = play()
print(render(outcome.spans))
print(f"the provider was sent  traceparent: {outcome.requests[-1].headers['traceparent']}")
