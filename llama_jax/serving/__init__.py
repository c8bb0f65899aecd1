"""A loaded model that continues texts (floor 4)."""
