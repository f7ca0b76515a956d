"""Hamiltonian Monte Carlo, and the joint density that its chains move over."""
