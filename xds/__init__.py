"""
egress-xds: a gRPC ADS control plane that makes a corporate CONNECT proxy transparent.

The package is laid out in rooms; a room imports only from the rooms below it, and import-linter
enforces it (see `[tool.importlinter]` in pyproject.toml)::

    8  cli/                             one module per verb of the `xds` command
    7  app.py  demo/                    composition root of `serve` · the main job, shown
       cluster.py                       its half for clusters
    6  server/  sources/  client.py     edges: gRPC servicer · directory watch · xDS client
       admin/                           edge: client status, health, metrics, for operators
       kubernetes/  admission/          edges: the API server · what it asks before it stores a policy
       inspection/                      edge: asks replicas and Envoys, for operators' commands
    5  reconcile.py  judge.py           when to compile and publish · what becomes of each document
       changes/                         what differs between two worlds, and which connections it cuts
    4  protocol/  cache.py  clients.py  SotW and delta machines · current snapshots · who acked what
       canary.py ← staging.py           changes go to a few first · the cache that does so
       workloads.py                     which pods there are
       injection/                       a pod → the pod with its sidecar, its capture and its variables
       explain/  importers/             which way a connection goes, and why · foreign configuration → policy
    3  compile/  bootstrap.py  capture/  render/  trust.py
    2  snapshot.py  resources.py        immutable resources, versions, closure check, diff
    1  policy/  facts.py                documents → frozen values or diagnostics
    0  diagnostics.py  catalogue/  errors.py  names.py  settings.py  flags.py
       dialects/                        how each client reads NO_PROXY

This module must stay empty of imports: `import xds` has no cost and no side effect.
"""
