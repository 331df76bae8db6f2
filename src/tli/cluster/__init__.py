"""The sweep on a cluster or on all cores, through submitit."""
