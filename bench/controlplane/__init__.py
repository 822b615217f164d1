"""The control plane with many workers: how fast a revision reaches them, and what it holds in memory for them."""
