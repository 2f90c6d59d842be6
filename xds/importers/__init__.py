"""
Foreign configuration becomes a policy, and a list of what changed in meaning.

One module per source: `aks`, `openshift`, `environment`, `istio` and `pac`; each takes decoded objects, or text,
and returns an `Imported`. Nothing here reads a file, decodes YAML or resolves a name, and nothing executes what it is
given. Invariants: whatever can't be carried over is told and never dropped in silence; what is not understood never
becomes a direct connection; no login of a proxy is in what is returned.
"""
