"""One module for each stage of dvc.yaml that measures or makes something; no stage imports another."""
