"""One table of names, many formats (floor 3)."""
