"""Runs the command line as `python -m tli`."""

from tli.cli import start

if __name__ == "__main__":
    start()
