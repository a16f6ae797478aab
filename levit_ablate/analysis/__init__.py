"""Results of a study: statistics, tables, plots."""
