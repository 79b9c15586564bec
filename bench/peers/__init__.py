"""The others: what Aureus is measured against, each at the best setting that keeps its promises."""
