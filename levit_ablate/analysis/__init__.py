"""What a study came to: statistics, tables, plots."""
