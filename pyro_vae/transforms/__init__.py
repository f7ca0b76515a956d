"""Transforms: ``context -> bijection``, the steps of a normalising flow; Pyro's own wherever it has them."""
