"""Fast functions of arrays; they know nothing of models (floor 1)."""
