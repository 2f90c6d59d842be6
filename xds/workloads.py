"""Which pods there are, as the cluster tells: who may be behind a node's id, and with which labels."""
