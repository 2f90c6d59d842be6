"""What operators and their tools see of a running server: client status, health, metrics. Sidecars see none of it."""
