"""Files from the network: pinned revisions, checked hashes, whole files or byte ranges."""
