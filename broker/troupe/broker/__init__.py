"""Messages between actors: envelope, addressing, order, retries, and the backends that carry them."""
