"""Numbers as a person reads them: as many digits as mean something."""

import math


def decimals(se: float) -> int:
    """How many decimals show two digits of a standard error; 3 where there is none."""
    if not math.isfinite(se) or se <= 0:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(se))))


def plus_minus(value: float, se: float, sign: bool = False) -> str:
    """`0.724 ± 0.010`; with `sign`, `+0.112 ± 0.009`. Without a standard error the value alone."""
    if not math.isfinite(value):
        return "unscored"
    places = decimals(se)
    shown = f"{value:{'+' if sign else ''}.{places}f}"
    return f"{shown} ± {se:.{places}f}" if math.isfinite(se) else shown


def short(value: float) -> str:
    """Four digits: `0.6931`, `1.2e-05`, `12345`."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`0.52 s`, `12 s`, `2 min 05 s`, `1 h 04 min`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
