"""The promises of dlvmguard, as tests."""
