"""Whether a deployment stands as it should: one finding for each thing that is looked at, with what to do about it."""
