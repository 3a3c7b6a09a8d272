"""Numbers and counts as words of a page."""

import math

from torch import Tensor

MINUS = "\N{MINUS SIGN}"


def number(value: Tensor | float, digits: int = 3) -> str:
    """A number with that many digits that count; "unknown" for NaN."""
    v = float(value)
    if math.isnan(v):
        return "unknown"
    if math.isinf(v):
        return "infinite" if v > 0 else f"{MINUS}infinite"
    large = abs(v) >= 10 ** (digits - 1)
    text = f"{v:,.0f}" if large and abs(v) < 1e9 else f"{v:.{digits}g}"
    return text.replace("-", MINUS)


def fixed(value: Tensor | float, decimals: int) -> str:
    """A number with that many decimals; "unknown" for NaN."""
    v = float(value)
    return f"{v:,.{decimals}f}".replace("-", MINUS) if math.isfinite(v) else number(v)


def interval(values: Tensor) -> str:
    """ "a to b", or one number where all agree, over what is known."""
    known = values[~values.isnan()]
    if not len(known):
        return "unknown"
    low, high = number(known.min()), number(known.max())
    return low if low == high else f"{low} to {high}"


def span(values: Tensor) -> str:
    """ "a and b": the smallest and the largest."""
    return f"{number(values.min())} and {number(values.max())}"


def among(count: int, thing: str) -> str:
    """ "1 system", "4 systems"."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def tail(k_hat: Tensor | float) -> str:
    """Pareto k-hat, or why there is none."""
    k = float(k_hat)
    return {math.inf: "too few weights", -math.inf: "no tail"}.get(k, fixed(k, 2))
