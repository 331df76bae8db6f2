"""One module per table: `paper/tables/NAME.md` is made by `src/tli/tables/NAME.py`.

A module has

- TITLE; CAPTION, of at most 40 words, in which `{params.lora.rank}` and the like stand for parameters;
- COLUMNS, or `columns(results, params)` where they depend on the parameters;
- `rows(results, params)`, which yields one mapping per row, column key -> value; under the key `note` it may give
  notes on that row;
- SOURCE, the stages whose rows it reads;
- optionally VIEW, where every similarity is read at one view, and `notes(results, params)`.

A table without rows is left out. To add a table, add a module and list it in src/tli/stages/tables.py.
"""
