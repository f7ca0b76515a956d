"""The laws of an estimator."""


class EstimatorLaws:
    """What holds for every estimator."""
