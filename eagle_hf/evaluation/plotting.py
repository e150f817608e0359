"""matplotlib, opened only when a plot is drawn: it is an optional dependency."""

from types import ModuleType


def open_pyplot() -> ModuleType:
    """Import pyplot with a backend that needs no screen."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
