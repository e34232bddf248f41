"""What must not be true: one file a topic, each check one pure function of facts."""
