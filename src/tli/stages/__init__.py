"""One module per stage of dvc.yaml, each with `run`; no stage imports another."""
