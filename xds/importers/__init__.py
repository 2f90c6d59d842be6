"""
Foreign configuration becomes a policy, and a list of what changed in meaning.

One module per source: `aks`, `openshift`, `environment`, `istio` and `pac`; each takes objects, which `decoding` makes
of text, or text, and returns an `Imported`. Nothing here reads a file or resolves a name, and nothing executes what it
is given. Invariants: whatever can't be carried over is told and never dropped in silence; what is not understood never
becomes a direct connection; no login of a proxy is in what is returned.
"""
