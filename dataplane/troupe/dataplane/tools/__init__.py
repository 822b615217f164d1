"""Tools: how they are declared, found, called, and the ones that Troupe brings."""
