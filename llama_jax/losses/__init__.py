"""Arrays in, scalar and metrics out (floor 2)."""
