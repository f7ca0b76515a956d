"""Storms: what people, machines and chance do to the library, from a seed, and the counts of what came of it.

``python tests/storm api --calls 5000 --seed 1`` runs one by hand; ``tests/test_storm.py`` runs a few calls of each.
"""
