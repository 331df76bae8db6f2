"""Runs the sweep on a Slurm cluster, or on all cores of this machine, through submitit."""
