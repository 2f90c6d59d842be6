"""
How real clients read NO_PROXY: whether a client would go directly to a host, and which entry made it.

One module per family of clients; `clients.decide` asks one of them by name. The rooms above compare and explain
with this. It knows strings and addresses only: no policy, no network, no environment.
Invariant: each module follows its client as it is, faults included, and the tests ask the client itself.
"""
