"""Raw files -> documents: which files, how each is opened, what is left out (floor 2)."""
