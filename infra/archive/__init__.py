"""Segments of the archive: how they are written, read, verified and asked questions, without the ledger."""
