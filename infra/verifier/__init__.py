"""Checking what Aureus signed without trusting it: the standard library and libsodium, and nothing else of Aureus."""
