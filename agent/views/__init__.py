"""What people look at. Pure functions from values to text or to something rich can draw."""
