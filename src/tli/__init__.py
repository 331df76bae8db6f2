"""Targeted Lexical Injection and the LoRA-rank study, as one DVC pipeline."""
