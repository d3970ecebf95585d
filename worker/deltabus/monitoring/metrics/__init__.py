"""Prometheus metrics of workers: what there is, who counts it, and how it is shown.

`monitoring.catalogue` names every metric. `counting` is the observer that counts, without any library, on a `Board`.
`exposition` puts the boards of all processes together and is alone in importing prometheus-client.
"""
