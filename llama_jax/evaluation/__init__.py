"""What a model can do, measured (floor 4)."""
