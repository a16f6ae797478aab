"""The networks: pure torch, which knows no Lightning."""
