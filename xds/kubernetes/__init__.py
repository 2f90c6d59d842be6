"""
The cluster: pods, policies and Secrets as the API server tells of them, and what operators are told through it.

Everything that speaks to the API server is here, and only here. What is read is reduced as it arrives; what a policy
means and what a pod gets is decided elsewhere. Invariant: an API server that is gone or wrong changes nothing that is
served.
"""
