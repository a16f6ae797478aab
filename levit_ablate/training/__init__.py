"""Training one experiment."""
