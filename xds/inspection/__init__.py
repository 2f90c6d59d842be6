"""
What operators' commands ask of running things: replicas of the control plane, and the Envoys beside applications.

Each module speaks to one kind of them, turns its library's exceptions into `UnreachableError`, and returns frozen
values. Nothing here prints, and nothing here knows Kubernetes. Invariant: no credential leaves this room.
"""
