"""Where sessions live between turns: the port, and the backends behind it."""
