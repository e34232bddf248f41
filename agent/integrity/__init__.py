"""Model directories: what is in them, and whether it is what was approved."""
