"""Compare a run with the recorded and the published values: conclusions, tolerances, claims."""
