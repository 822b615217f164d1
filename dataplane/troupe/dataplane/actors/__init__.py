"""The actor runtime: one mailbox, one turn at a time, its own state, for each session."""
