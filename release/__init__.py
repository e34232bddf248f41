"""What makes a release: the lock file of dependencies, and the bundle that installs without a network."""
