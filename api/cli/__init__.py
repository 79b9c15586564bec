"""Aureus at the command line: every question and every command of the API, for people and for scripts."""
