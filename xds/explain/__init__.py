"""
Which way a connection goes, and why: a small Envoy that evaluates resources, and the policy's words beside it.

`walk` and `explicit` read the outcome from compiled resources, following Envoy's semantics and nothing of how the
compiler works; `dns` reads what names are answered with. `cause` reads the policy naively, rule after rule, and
`explanation` puts both together. Invariant: what is said to happen comes from the resources alone; where the policy's
reading says otherwise, the explanation tells of the contradiction and hides neither.
"""
