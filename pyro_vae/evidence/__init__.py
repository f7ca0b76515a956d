"""Evidence: log p(x) of a fitted pair, in nats per datum."""

from pyro_vae.evidence.importance import Importance, importance

__all__ = ["Importance", "importance"]
