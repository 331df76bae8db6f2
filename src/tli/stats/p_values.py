"""p of a test statistic. A p below 1e-300, which a float can hardly hold, is stored as 1e-300."""

from __future__ import annotations

from scipy import special

SMALLEST = 1e-300
CLIPPED = "p below 1e-300 is shown as 1e-300"
BOUND = 1000 * SMALLEST  # a p below this may be a clipped one times the number of tests in its family


def clipped(p: float) -> float:
    """p, at least `SMALLEST` and at most 1."""
    return min(max(float(p), SMALLEST), 1.0)


def clip_note(*p: float | None) -> str:
    """The note for the reader where one of these p-values was clipped; empty where none was."""
    return CLIPPED if any(value is not None and value <= SMALLEST for value in p) else ""


def student(t: float, df: float) -> float:
    """Two-sided p of Student's t: 2 P(T_df >= |t|)."""
    return clipped(2 * special.stdtr(df, -abs(t)))


def student_above(t: float, df: float) -> float:
    """One-sided p of Student's t: P(T_df >= t)."""
    return clipped(special.stdtr(df, -t))


def normal(z: float) -> float:
    """Two-sided p of a standard normal z: 2 P(Z >= |z|)."""
    return clipped(2 * special.ndtr(-abs(z)))
