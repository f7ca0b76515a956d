"""What a pair says of what is not known, given what is: conditional draws, and missing values.

:func:`sample`
    draws of a pair's sites where others have given values, in part or in full, or where a predicate holds;
:func:`impute`
    the missing entries of data, their mean and draws of them;
:class:`PartlyObserved`
    the pair of data with missing entries that a pair of whole data makes, for whatever takes a pair.
"""

from pyro_vae.conditioning.imputation import Imputed, impute
from pyro_vae.conditioning.incomplete import PartlyObserved
from pyro_vae.conditioning.sampling import Draws, sample

__all__ = ["Draws", "Imputed", "PartlyObserved", "impute", "sample"]
