"""The few things every package needs: files, trees, dtypes, exit codes (floor 0)."""
