"""The engine: trains jobs of studies and searches in local processes or on a Ray cluster."""
