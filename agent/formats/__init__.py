"""What was seen, in the formats that other tools take: pure mappings."""
