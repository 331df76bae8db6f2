"""The parameters: params.yaml as checked objects."""
