"""Architecture search: its trials, what they show, and what they do not."""
