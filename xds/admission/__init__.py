"""Admission: what the API server asks before it stores an object. Nothing here reads or writes the cluster."""
