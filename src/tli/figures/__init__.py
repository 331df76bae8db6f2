"""One module per figure: `paper/figures/MODEL/NAME.svg` is drawn by `src/tli/figures/NAME.py`."""
