"""Packs: what an export hands over, written as one file that anybody can check (docs/packs.md)."""
