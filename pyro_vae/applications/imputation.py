"""Imputation: the missing entries of a table, or of images, beside imputers of scikit-learn."""

from __future__ import annotations

import functools
import math
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plotting
from pyro_vae._checks import checked, number, whole
from pyro_vae._files import write_text, write_whole
from pyro_vae.applications import report
from pyro_vae.conditioning import Imputed
from pyro_vae.conditioning import impute as imputed
from pyro_vae.conditioning.incomplete import incomplete
from pyro_vae.data import Data, Split, load
from pyro_vae.data.prepared import Standardized
from pyro_vae.data.tables import filled_text
from pyro_vae.pair.turns import fork_rng

_SHARE = 0.2  # of the observed entries that are hidden where nothing else is asked for
_FEW = 2_000_000  # entries up to which the nearest neighbors are looked for, 784 pixels of 2,500 images
_NARROW = 100  # columns up to which each is regressed on the others
_COLUMNS = 12  # of the figure
_IMAGES = 10


@dataclass(frozen=True)
class Imputations:
    """What :func:`impute` found.

    Attributes:
        num_data: of how many data.
        num_missing: how many entries were missing, without those that were hidden.
        num_hidden: how many more were hidden, and known.
        rmse: by method, the root mean square error of the hidden entries, of standardized columns where the run has
            such; none where nothing was hidden.
        standard_error: of each over the data.
        effective_sample_size: the median over the data.
        num_samples: of how many draws.
        seconds: of ours.
    """

    num_data: int
    num_missing: int
    num_hidden: int
    rmse: dict[str, float]
    standard_error: dict[str, float]
    effective_sample_size: float
    num_samples: int
    seconds: float


@checked(but=("hidden", "limit"))
def impute(
    pair: Any,
    data: Data,
    *,
    file: str | None = None,
    labels: str | None = None,
    covariates: str | None = None,
    hidden: float | None = None,
    num_samples: int = 1000,
    num_imputations: int = 0,
    limit: int = 1000,
    out: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Imputations:
    """Fills the missing entries of a file, or of the test data of a run, beside other imputers.

    A table, .csv or .tsv, with empty cells is written again with these filled: impute.csv, each by its mean given what
    is observed of its row, and, if they are asked for, impute_1.csv, impute_2.csv, ..., drawn. Other data become
    impute.npy. How well that goes is told by entries that are hidden besides: of these the error is known, also of the
    mean of a column, of the nearest neighbors, and of regressions of each column on the others, which have the training
    data of the run. Of rows that the run was trained on that tells nothing: hide entries of others.

    Args:
        pair: the fitted pair: one of data with missing entries, such as IncompleteVAE, or of whole data.
        data: its data.
        file: what is to be filled, of the columns that the run has; by default the test set of the run, or the
            validation or training set where there is none.
        labels: of a table, a column that is no part of x, as in training.
        covariates: likewise, columns that are the second argument of model and guide.
        hidden: the share of the observed entries that are hidden to be told the error of; by default 0.2 of the data of
            the run, and none of a file.
        num_samples: draws of the latents for each datum.
        num_imputations: files of draws.
        limit: only the first so many data of the run; a file is filled as a whole.
        out: folder for the files, impute.json and impute.png.
        seed: of the entries that are hidden and of the draws.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument is out of its range, the file has other columns, the data are no real numbers or
            pixels, or nothing is missing and nothing hidden.
        OSError: if the file cannot be read, or the results not be written.
    """
    whole(num_samples=num_samples, limit=limit)
    whole(0, num_imputations=num_imputations, seed=seed)
    share = (_SHARE if file is None else 0.0) if hidden is None else hidden
    number(0, below=1, hidden=share)
    split = data.held(limit) if file is None else _of_file(file, data, labels, covariates)
    _, batch, mask = incomplete(pair, split.batch(slice(None)))
    x, *others = (part.cpu() if isinstance(part, Tensor) else part for part in batch)
    others = [part for part in others if not (isinstance(part, Tensor) and part.dtype == torch.bool)]
    with fork_rng():
        torch.manual_seed(seed)
        hide = mask & (torch.rand(mask.shape) < share)
    if mask.all() and not hide.any():
        what = "the data" if file is None else file
        raise ValueError(
            f"nothing is missing of {what}, and nothing was hidden. Give --hidden, a share of its entries."
        )
    seen = mask & ~hide
    started = time.perf_counter()
    given = torch.where(seen, x, math.nan)
    found = imputed(pair, (given, *others), num_samples, num_imputations, seed=seed, progress=progress)
    seconds = time.perf_counter() - started
    errors: dict[str, Tensor] = {}
    if hide.any():
        filled = {**_baselines(data, given), "this pair": found.mean}
        errors = {name: _errors(value, x, hide) for name, value in filled.items()}
    result = Imputations(
        len(x),
        int((~mask).sum()),
        int(hide.sum()),
        {name: math.sqrt(_mean(error, hide)) for name, error in errors.items()},
        {name: _standard_error(error, hide) for name, error in errors.items()},
        found.effective_sample_size.median().item(),
        num_samples,
        seconds,
    )
    print(found)
    if errors:
        order = sorted(errors, key=result.rmse.__getitem__)
        lines = [(name, f"{result.rmse[name]:.4f} ({result.standard_error[name]:.4f})") for name in order]
        print(report.table(("imputation", "RMSE (standard error)"), lines))
    if out is not None:
        if hide.any() and not mask.all():  # files are filled by all that is known
            given = torch.where(mask, x, math.nan)
            found = imputed(pair, (given, *others), num_samples, num_imputations, seed=seed, progress=progress)
        whole_again = [torch.where(mask, x, values) for values in (found.mean, *found.draws)]
        _write(Path(out), file, [data.original(values.double()) for values in whole_again], labels, covariates)
        figure = _figure(data, x, found, ~seen)
        report.write(Path(out), "impute", asdict(result), {"impute": figure} if figure else {})
    return result


def _of_file(file: str, data: Data, labels: str | None, covariates: str | None) -> Split:
    """The rows of a file, as the pair is to see them."""
    options: dict[str, Any] = {"labels": labels, "covariates": covariates}
    loaded = load(file, valid_size=0, test_size=0, missing=True, **{n: v for n, v in options.items() if v is not None})
    if loaded.event_shape != data.event_shape:
        raise ValueError(
            f"{file} has data of shape {list(loaded.event_shape)}, and the run {list(data.event_shape)}. Give the "
            "columns of the run, in their order; labels= and covariates= name those that are no part of x."
        )
    if None not in (loaded.columns, data.columns) and loaded.columns != data.columns:
        raise ValueError(
            f"{file} has the columns {', '.join(loaded.columns or ())}, and the run {', '.join(data.columns or ())}. "
            "Give the columns of the run, in their order."
        )
    split: Any = loaded.train
    if isinstance(data, Standardized):
        split = data.standardized(split)
    return split.take(len(split))


def _errors(values: Tensor, x: Tensor, hide: Tensor) -> Tensor:
    """Square errors, 0 where nothing was hidden."""
    return torch.where(hide, (values - x).double().square(), 0.0)


def _mean(errors: Tensor, hide: Tensor) -> float:
    return (errors.sum() / hide.sum()).item()


def _standard_error(errors: Tensor, hide: Tensor) -> float:
    """Of the root mean square over the data, by the delta method."""
    sums, counts = errors.flatten(1).sum(1), hide.flatten(1).sum(1).double()
    mean = _mean(errors, hide)
    if len(sums) < 2 or mean == 0:
        return math.nan
    deviation = (sums - mean * counts).std() / counts.mean() / math.sqrt(len(sums))
    return (deviation / (2 * math.sqrt(mean))).item()


def _baselines(data: Data, given: Tensor) -> dict[str, Tensor]:
    """Imputers of scikit-learn that have seen the training data."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    batch = data.train.take(10_000).batch(slice(None))
    masks = [part for part in batch[1:] if part.dtype == torch.bool and part.shape == batch[0].shape]
    x = torch.where(masks[-1], batch[0], math.nan) if masks else batch[0]
    train, test = (part.flatten(1).double().numpy() for part in (x, given))
    imputers: dict[str, Any] = {"mean": SimpleImputer(keep_empty_features=True)}
    if train.size <= _FEW:
        imputers["5 nearest neighbors"] = KNNImputer(keep_empty_features=True)
    if train.shape[1] <= _NARROW:
        imputers["iterative regressions"] = IterativeImputer(random_state=0, keep_empty_features=True)
    found = {}
    for name, imputer in imputers.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of regressions that have not converged in their ten rounds
            found[name] = torch.as_tensor(imputer.fit(train).transform(test)).reshape(given.shape)
    return found


def _write(out: Path, file: str | None, filled: list[Tensor], labels: str | None, covariates: str | None) -> None:
    """The data with their missing entries filled: by means, and by draws."""
    for index, values in enumerate(filled):
        stem = f"impute_{index}" if index else "impute"
        if file is not None and Path(file).suffix.lower() in (".csv", ".tsv"):
            text = filled_text(Path(file), values.tolist(), labels, covariates)
            write_text(out / f"{stem}{Path(file).suffix.lower()}", text)
        else:
            write_whole(out / f"{stem}.npy", functools.partial(_save, values=values.float().numpy()))


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _figure(data: Data, x: Tensor, found: Imputed, missing: Tensor) -> Figure | None:
    """Images in rows, or of the columns of a table what was observed beside what stands for what is missing."""
    shape = x.shape[1:]
    if len(shape) == 3 and shape[0] in (1, 3):
        seen = torch.where(missing, 0.5, x)[:_IMAGES].clamp(0, 1)
        rows = {"mean": found.mean, **{f"draw {index + 1}": draw for index, draw in enumerate(found.draws[:3])}}
        below = {name: images[:_IMAGES].clamp(0, 1) for name, images in rows.items()}
        return plotting.restorations([{"as it is": x[:_IMAGES].clamp(0, 1)}, {"observed": seen, **below}])
    values, filled = data.original(x.double()).flatten(1), [found.mean, *found.draws]
    drawn = torch.stack([data.original(value.double()).flatten(1) for value in filled[1:] or filled])
    gone = missing.flatten(1)
    shown = [c for c in gone.sum(0).argsort(descending=True).tolist() if gone[:, c].any() and not gone[:, c].all()]
    if not shown:
        return None
    columns = {str(c): (values[~gone[:, c], c], drawn[:, gone[:, c], c].flatten()) for c in sorted(shown[:_COLUMNS])}
    return plotting.observed_and_imputed(columns, "draws" if len(filled) > 1 else "means")
