"""Whole studies: from a file of variants to jobs, to workers, to the record."""
