"""Where events go. A sink says entry by entry what it took; the ledger keeps the rest."""
