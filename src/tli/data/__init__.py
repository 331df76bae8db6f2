"""Room one: word pairs, the micro-world and the benchmarks' items."""
