"""Service: an encoder offered over HTTP, with accounts, prices, limits and defenses."""
