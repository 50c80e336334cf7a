"""Service: the other side of the wire, an encoder offered over HTTP with accounts, prices, limits and defenses."""
