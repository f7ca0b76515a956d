"""Distributions that Pyro does not ship."""
