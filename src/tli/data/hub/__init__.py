"""Files from the network: pinned, hashed, fetched whole or in part."""
