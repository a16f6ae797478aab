"""The record: every run in MLflow, found again by its key."""
