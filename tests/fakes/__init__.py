"""Everything that stands for a part of the world in tests: trees for machines, servers for services."""
