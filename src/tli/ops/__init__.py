"""What people run around the DAG."""
