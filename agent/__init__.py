"""dlvmguard: the customer's half of security on a Google Cloud Deep Learning VM."""

__version__ = "0.1.0"
