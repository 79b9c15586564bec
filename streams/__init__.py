"""How events travel from the ledger to the read models."""
