"""Ends of scales and axes."""

import numpy as np


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite value; 0 and 1 where there is none."""
    seen = values[np.isfinite(values)]
    return (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
