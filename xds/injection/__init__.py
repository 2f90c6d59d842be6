"""
Injection: a pod becomes the pod with its sidecar, its capture and its variables.

The webhook and `xds inject` hand in what a pod is and where it is; nothing here reads a cluster, a file or a clock.
Invariant: injecting twice gives what injecting once gives, and what is not understood is never let through without the
sidecar that was asked for.
"""
