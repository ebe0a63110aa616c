"""What the operator and the launcher know alike of Kubernetes: its API, its objects, its pods."""
