"""One step, and the loop around it (floor 4)."""
