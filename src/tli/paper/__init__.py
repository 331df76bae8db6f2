"""From rows to tables, figures, verdicts, paper and report."""
