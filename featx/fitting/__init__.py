"""Fitting: where a cache meets a head - fit, measure, decide, compare."""
