"""Metrics: features -> statistics -> figure. Maths of arrays; no path, no config."""
