"""What pictures carry with them before anyone trains on it: audits write columns and a keep mask, and never delete."""
