"""Room two: the base checkpoint, its 4-bit cache, spans of blocks and adapters."""
