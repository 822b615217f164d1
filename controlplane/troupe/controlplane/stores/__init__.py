"""Where the control plane keeps what must outlive it."""
