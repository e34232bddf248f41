"""What is true of the machine: one file a subject, with its frozen types, its pure parser and its probe."""
