"""The outside world: the ledger's store, keys, proofs, policies and everything else with a side effect."""
