"""Backups: one consistent copy of all that cannot be made again, in one file that proves itself; and the way back from it."""
