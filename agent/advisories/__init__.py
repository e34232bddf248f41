"""The advisory database: built from open data, kept fresh, and matched with what is installed."""
