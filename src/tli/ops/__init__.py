"""For maintainers: pages of benchmarks and of faults, the list of packages."""
