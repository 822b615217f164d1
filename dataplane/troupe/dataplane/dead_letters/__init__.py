"""Messages that were given up: found, shown, sent again or dropped."""
