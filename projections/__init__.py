"""What people read: tables folded from the ledger, each row with its whole history."""
