"""Writes the tables of experiments/README.md, docs/results.md and README.md from the files in experiments/results.

python experiments/tables.py           writes them anew
python experiments/tables.py --check   tells what differs from the files, and ends with 1 where anything does

A table stands between the lines ``<!-- table: NAME -->`` and ``<!-- end of table -->``. The method of this name yields
the whole of it, row by row, or returns the numbers of some columns, between words that stay as they are: a new table is
one method of ``Tables`` and its two lines. The numbers of the sentences "Minutes: ..." are written as well. Published
numbers that no result file holds are in experiments/published.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = (HERE / "README.md", HERE.parent / "docs" / "results.md", HERE.parent / "README.md")
BLOCK = re.compile(r"(?<=<!-- table: )([\w-]+) -->((?:\n(?!<!-- ).*)*)(?=\n<!-- end of table -->)")  # no marker inside
SENTENCE = re.compile(r"^(## (.+)\n(?:(?!## ).*\n)*?)(Minutes: .*?)(?= Files:|$)", re.MULTILINE)
NUMBER = re.compile(r"(?<!\w)[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")

DATA = {"mnist": "MNIST", "frey": "Frey"}
Rows = Iterator[Any]  # the first is the header; each is its cells, or a line of them


# Numbers as texts


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    """Rounded as decimals are, of which 0.0865 is one; never -0.0."""
    if value is None:
        return "-"
    return f"{Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) + 0:{sign}}"


def numbers(digits: int, *values: float | None) -> list[str]:
    return [number(value, digits) for value in values]


def cells(row: Mapping[str, Any], *forms: str) -> list[str]:
    """``bound:2`` is row["bound"] with two digits; ``nll:±2`` and ``nll:(2)`` have its standard error as well."""
    texts = []
    for key, _, form in (text.partition(":") for text in forms):
        pair = row[key] if isinstance(row[key], list) else (row[key], row.get(f"{key}_error"))
        value, error = numbers(int(form.strip("±()")), *pair)
        texts.append(f"{value} ± {error}" if "±" in form else f"{value} ({error})" if "(" in form else value)
    return texts


def significant(value: float, digits: int = 3) -> str:
    """So many digits, and all of those before the point."""
    whole = math.floor(math.log10(value)) + 1
    return number(value, max(0, digits - whole)) if whole < 4 else f"{value:,.0f}"


def percent(share: float | None) -> float | None:
    return None if share is None else float(100 * Decimal(str(share)))


def minutes(seconds: Iterable[float], digits: int = 1) -> str:
    return number(sum(seconds) / 60, digits)


def power(value: float) -> str:
    return few(float(f"{value:.0e}"))


def few(value: float) -> str:
    """1.5e6, 1e6."""
    return re.sub(r"(?:\.0)?e\+?(-?)0", r"e\1", f"{value:.1e}")


def bold(text: str) -> str:
    return re.sub(r"^[^(]+?(?= \(|$)", r"**\g<0>**", text)  # but for an error in brackets


def best(pick: Callable[..., float], values: Iterable[float | None], texts: Iterable[str]) -> list[str]:
    """The texts, that of the best value in bold."""
    values = list(values)
    top = pick(value for value in values if value is not None)
    return [bold(text) if value == top else text for value, text in zip(values, texts, strict=True)]


# Rows of a file


def by(rows: Iterable[Any], key: str, *more: str) -> dict[Any, Any]:
    """Rows by what stands under a key; those that share it by the next key."""
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return {value: by(group, *more) if more else group[-1] for value, group in groups.items()}


def below(above: Sequence[str], row: Sequence[str]) -> list[str]:
    """The first cells of a row, empty while they are those of the row above."""
    return ["" if list(above[:end]) == list(row[:end]) else row[end - 1] for end in range(1, len(row) + 1)]


def once(rows: Iterable[Mapping[str, Any]], *names: str) -> list[Any]:
    """Rows whose numbers and words differ in more than these: a run may stand in several lists."""
    return list(
        {
            str([v for k, v in sorted(r.items()) if k not in names and not isinstance(v, list | dict)]): r for r in rows
        }.values()
    )


def gains(one: Mapping[int, Any], other: Mapping[int, Any], key: str) -> list[float]:
    """One setting minus another, seed by seed."""
    return [one[seed][key] - other[seed][key] for seed in one]


def step(name: str) -> str:
    return bold(name) if name == "pyro_vae, compiled" else re.sub(r"SVI\.step\(\w+\)", r"`\g<0>`", name)


def levels(row: Mapping[str, Any], digits: int = 1) -> str:
    return " / ".join(number(level["kl"], digits) for level in row["levels"])


def epoch(run: Mapping[str, Any]) -> str:
    return f"{number(run['valid'])} ({number(run['seconds_an_epoch'])})"


class Tables:
    """The tables, of the JSON files in a folder."""

    def __init__(self, folder: Path = HERE / "results") -> None:
        self.folder, self.files = folder, dict[str, Any]()

    def _read(self, name: str) -> Any:
        if name not in self.files:
            folder = self.folder.parent if name == "published" else self.folder
            self.files[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return self.files[name]

    def _find(self, path: str) -> list[Any]:
        """``FILE/key/0/*``: ``*`` is all of a list or dictionary, ``?key=text`` or ``?key`` keeps some of it."""
        name, *steps = path.split("/")
        found = [self._read(name)]
        for step in steps:
            if step == "*":
                found = [each for one in found for each in (one.values() if isinstance(one, dict) else one)]
            elif step.startswith("?"):
                key, _, text = step[1:].partition("=")
                found = [one for one in found if isinstance(one, dict) and key in one and text in ("", str(one[key]))]
            else:
                found = [one[int(step)] if isinstance(one, list) else one[step] for one in found]
        return found

    def _one(self, path: str) -> Any:
        (found,) = self._find(path)
        return found

    # Speed

    def speed(self) -> Rows:
        sizes = by(self._find("benchmark/results/*"), "batch_size")
        yield ["", *(f"batch {size:,}" for size in sizes)]
        for name in self._one("benchmark/results/0/ms"):
            if not re.search(r"Trace_|^pyro_vae, eager|validation on", name):
                yield [step(name), *(f"{found['ms'][name]:#.3g}" for found in sizes.values())]

    def speed_of_a_ladder(self) -> Rows:
        yield "| milliseconds"
        for name, ms in self._one("benchmark_hierarchy/results/0/ms").items():
            if name != "pyro_vae, eager":
                yield [step(name), number(ms)]

    def speed_of_more_pairs(self) -> Rows:
        sizes = self._find("benchmark_pairs/results/*")
        yield ["", *(f"{found['pair']}, {found['batch_size']:,}" for found in sizes)]
        for name in sizes[0]["ms"]:
            yield [step(name), *(significant(found["ms"][name]) for found in sizes)]
        least = [{name: min(times) for name, times in found["rounds"].items()} for found in sizes]
        for name, rival in {
            "by hand, compiled": "hand-written PyTorch, torch.compile",
            "JAX": "JAX, epoch under jit",
        }.items():
            yield [f"ours, times {name}", *(number(found["pyro_vae, compiled"] / found[rival], 2) for found in least)]

    def programs_of_pyro(self) -> Rows:
        yield "program | steps | `SVI.step`, ms | validation off | pyro_vae, ms | times faster"
        for row in self._find("pyro_programs/results/*"):
            yield [row["program"], row["mode"], *numbers(2, *row["ms"].values()), *cells(row, "faster:1")]

    def a_table_larger_than_memory(self) -> Rows:
        found = self._read("large_table")
        seconds, kept = found["seconds"], found["kept"]
        yield " | measured | to reach"
        yield ["table, GB", number(found["gigabytes"]), "20"]
        yield ["resident memory of the training, GiB", number(found["memory_GiB"], 2), "below 2"]
        yield ["speed, of that in memory", number(found["ratio"], 2), "at least 0.9"]
        yield ["the same bits after an interruption", "yes" if found["same_bits"] else "no", "yes"]
        yield [
            "variance that 8 numbers keep: the VAE, one pass",
            number(kept["vae"], 3),
            f"{number(kept['most'], 3)} at most",
        ]
        yield ["variance that 8 numbers keep: incremental PCA, one pass", number(kept["pca"], 3), "-"]
        yield ["seconds: the VAE, PCA", ", ".join(numbers(0, seconds["vae"], seconds["pca"])), "-"]

    def a_busy_machine(self) -> Rows:
        yield "median seconds of three trainings | quiet | beside a busy process"
        for name, times in self._one("busy/seconds").items():
            yield [name if " " in name else f"`{name}`", *numbers(1, *map(statistics.median, times.values()))]

    def lower_bound(self) -> Rows:
        yield "data, N_z, estimator | samples | published: train | validation | ours: train | validation | seeds apart"
        places = "data", "latent_dim", "estimator", "samples"
        train, valid = ({tuple(row[key] for key in places): row for row in self._find(
            f"lower_bound_full/points/*/?bound={bound}")} for bound in ("train", "valid"))  # fmt: skip
        for place, row in valid.items():
            data, latent_dim, estimator, samples = place
            sides = [cells(side, f"{key}:1")[0] for key in ("published", "ours") for side in (train[place], row)]
            yield [f"{DATA[data]}, {latent_dim}, {estimator}", few(samples), *sides, number(row["spread"])]

    def lower_bound_ways(self) -> Rows:
        yield "data, N_z, way | samples | train | validation | best validation | after"
        for run in self._find("lower_bound_full/runs/*"):
            if run["way"] != "replication":
                last, top = run["history"][-1], max(run["history"], key=lambda entry: entry["valid"])
                estimator = f", {run['estimator']}" if run["way"] == "no prior" else ""
                name = f"{DATA[run['data']]}, {run['latent_dim']}, {run['way']}{estimator}"
                yield [name, few(last["samples"]), *cells(last, "train:1", "valid:1"), *cells(top, "valid:1"),
                       few(top["samples"])]  # fmt: skip

    def la_or_lb(self) -> Rows:
        yield "N_z = 10, 1e6 samples, validation | L^A | L^B | L^A - L^B | seeds"
        runs = by(
            self._find("kl_estimators_quick/runs/*/?latent_dim=10"), "optimizer", "num_particles", "estimator", "seed"
        )
        for optimizer, particles in runs.items():
            for count, found in particles.items():
                means = [statistics.fmean(run["history"][-1]["valid"] for run in found[name].values()) for name in "AB"]
                name = optimizer if count == 1 else f"{optimizer}, L = {count}"
                yield [name, *numbers(1, *means), number(means[0] - means[1], 1, "+"), len(found["A"])]

    def two_ranks(self) -> Rows:
        yield "a second | one process | two ranks | times"
        for name, times in self._one("ranks/times").items():
            rates = (round(statistics.mean(self._one(f"ranks/rates/{name}, {ranks}"))) for ranks in (1, 2))
            yield [name, *rates, number(times, 2)]

    # Estimators, flows, priors

    def marginal_likelihood(self) -> Rows:
        yield "N_train | | samples | appendix D | importance, 5,000 | AIS"
        for run in self._find("marginal_likelihood_quick/runs/*"):
            found = (run["check"][key]["log_prob"] for key in ("hmc", "importance", "ais"))
            way, samples = run["way"].replace("MCEM", "Monte Carlo EM"), run["points"][-1]["samples"]
            yield [run["num_train"], way, power(samples), *numbers(1, *found)]

    def l_against_m(self) -> Rows:
        yield "| L = 1 | L = 2 | L = 5"
        for kind, sizes in by(self._find("samples_and_batch_quick/runs/*"), "estimator", "M", "L").items():
            for size, runs in sizes.items():
                shown = ((number(run["history"][-1]["read"]), number(run["seconds"], 0)) for run in runs.values())
                yield [f"M = {size}{', L^A' if kind == 'L^A' else ''}", *(f"{bound} ({s})" for bound, s in shown)]

    def flows(self) -> Rows:
        yield "| bound | KL | NLL | published NLL | ms a step | at equal time"
        runs = self._find("flows_quick/runs/*/?data=mnist")
        published, ms = self._one("flows_quick/published/nll"), self._one("flows_quick/milliseconds_a_step")
        shown = best(min, (run["nll"] for run in runs), (cells(run, "nll:2")[0] for run in runs))
        for run, nll in zip(runs, shown, strict=True):
            flow, epochs = run["flow"], len(run["history"])
            early = run["history"][min(max(1, int(epochs * ms["diagonal"] / ms[flow])), epochs) - 1]["valid"]
            ours = *cells(run, "test_bound:2", "rate:1"), nll
            yield [flow, *ours, published.get(flow, ""), *numbers(1, ms[flow], early)]

    def energies(self) -> Rows:
        ours, theirs = (self._one(f"flow_energies_quick/{key}") for key in ("negative_log_normalizer", "published"))
        yield ["free energy", *theirs]
        for flow, runs in by(self._find("flow_energies_quick/runs/*"), "flow", "energy").items():
            yield [flow, *(number(runs[name]["free_energy"], 2) for name in theirs)]
        yield ["-log Z, with these walls", *numbers(3, *(ours[name] for name in theirs))]
        yield ["-log Z, published", *numbers(3, *theirs.values())]

    def priors(self) -> Rows:
        yield "| NLL | minus the bound | active units | published NLL"
        published = self._one("priors_quick/published")
        names = {"standard": "standard normal", "mixture": "mixture of 200 Gaussians", "Vamp": "VampPrior of 200"}
        names |= {"flow": "flow (4 MAF steps)", "best": "convolutional"}
        of = {"static, standard": " of 40", "frey, standard": " of 20", "static, best": " of 32"}
        for run in self._find("priors_quick/runs/*"):
            bits, strong = run["data"] == "frey", run["prior"] == "best"
            label = f"{'Frey' if bits else run['data'] + ' MNIST'}, {names[run['prior']]}{' (bits)' if bits else ''}"
            unit, name = 28 * 20 * math.log(2) if bits else 1, f"{run['data']}, {run['prior']}"
            nll, bound = numbers(3 if bits else 2, run["nll"] / unit, -run["test_bound"] / unit)
            theirs = number(published[name], 2) if name in published else ""
            label, nll = (f"**{label}**", bold(nll)) if strong else (label, nll)
            yield [label, nll, bound, f"{run['active_units']}{of.get(name, '')}", theirs]

    def beta(self) -> Rows:
        yield "MNIST, N_z = 10 | bound | rate | distortion | mutual information | total correlation | units' KL"
        more = "beta-TCVAE, beta = 4", "capacity 15 nats", "free bits, 1 nat a unit"
        for name in (*(f"beta = {value}" for value in (0.25, 1, 4, 16)), *more):
            run = self._one(f"beta_quick/mnist/*/?objective={name}")
            total = "total_correlation:1" if run["total_correlation"] > 0.05 else "total_correlation:2"
            shown = cells(run, "rate:1", "distortion:1", "mutual_information:2", total, "dimension_wise_kl:2")
            yield [name.replace("capacity", "capacity of"), number(-run["rate"] - run["distortion"]), *shown]

    def sigma(self) -> Rows:
        yield "| | test bound | KL | MSE a pixel | sigma | active units"
        above = [""]
        for run in self._find("sigma_quick/runs/*"):
            of = [f"{'MNIST (gray)' if run['data'] == 'mnist' else 'Frey'}, N_z = {run['latent_dim']}"]
            label, scale = run["sigma"].replace("per pixel", "a pixel"), f"{run['scale']:#.2g}".replace("1.0", "1")
            scale += " (geometric mean)" if label == "a pixel" else ""
            shown = cells(run, "test:1", "rate:1", "error_of_pixel:4")
            yield [*below(above, of), label, *shown, scale, run["active_units"]]
            above = of

    # Systems

    def hierarchies_ladder(self) -> Rows:
        yield "dynamic MNIST | bound | NLL | KL of z1 / z2 / ... | units with KL above 0.01 | minutes"
        for row in self._find("hierarchy_ladder_quick/rows/*"):
            units = " / ".join(str(level["active_by_kl"]) for level in row["levels"])
            yield [row["system"], *cells(row, "bound:2", "nll:±2"), levels(row), units, minutes([row["seconds"]])]

    def hierarchies_grid(self) -> Rows:
        yield "L | guide | neither | batch norm | warm-up | both | KL of z1 / z2 / ..., both"
        runs = by(self._find("hierarchy_grid_quick/rows/*"), "num_levels", "guide", "warm_up", "batch_norm")
        for count, guide in ((1, "plain"), (3, "plain"), (3, "ladder"), (5, "plain"), (5, "ladder")):
            four = [runs[count][guide][slow][norm] for slow in (False, True) for norm in (False, True)]
            nll = numbers(1, *(row["nll"] for row in four))
            yield [count, "either" if count == 1 else guide, *nll, levels(four[-1], 2)]

    def hierarchies_convolutional(self) -> Rows:
        header = "convolutional ladder, L = 3 | epochs | bound | published | NLL | published | "
        yield header + "KL of z1 / z2 / z3 | minutes"
        for row in self._find("hierarchy_conv_quick/rows/*"):
            kind, (bound, nll) = row["part"].removeprefix("conv-"), cells(row, "bound:2", "nll:±2")
            theirs = self._one("hierarchy_conv_quick/published/convolutional") if kind == "static" else {}
            pairs = bound, number(theirs.get("bound"), 2), nll, number(theirs.get("nll"), 2)
            yield [f"{kind} MNIST", row["epochs"], *pairs, levels(row), minutes([row["seconds"]])]

    def nvae(self) -> Rows:
        yield "| system | parameters | epochs | minutes | bound | NLL | bits per dimension"
        for run in self._find("nvae_mnist_quick/runs/*"):
            size = "MNIST", run["system"], run["parameters"], run["epochs"], minutes([run["seconds"]])
            yield [*size, *cells(run, "bound:2", "nll:±2"), number(run["bits_per_dim"], 3)]
        row = self._one("nvae_mnist_quick/published")
        size = "MNIST", "published NVAE", "-", row["epochs"], f"{row['minutes']:,.0f} (two V100)"
        yield [*size, "-", *cells(row, "nll:2"), "-"]

    def vq_vae(self) -> Rows:
        yield "| perplexity of z1, z2 (of K) | system | squared error a pixel | bits per dimension"
        systems = {"codes": "codes, uniform prior", "code prior": "codes, PixelCNN prior"}
        for name, label in {"mnist": "MNIST", "frey": "Frey"}.items():
            found = self._read(f"vq_{name}_quick")
            used = f"{', '.join(cells(found['perplexity'], 'z1:1', 'z2:1'))} ({found['num_codes']})"
            for key, system in {**systems, "gaussian": "Gaussian VAE, same networks"}.items():
                yield [label, used if key == "codes" else "", system, *cells(found[key], "error_of_pixel:4", "bits:3")]

    def full_bayes(self) -> Rows:
        header = "| N | MAP, end | VB, end | matrix, end | MAP, best epoch | VB | matrix | "
        yield header + "predictive NLL, MAP | VB | matrix"
        for name, counts in by(self._find("full_bayes_quick/runs/*"), "data", "N", "method").items():
            for count, runs in counts.items():
                three = [runs[method] for method in ("MAP", "VB", "VB, matrix")]
                values = (run[key] for key in ("valid_end", "valid_best", "nll") for run in three)
                yield ["MNIST" if name == "mnist" else "Frey", count, *numbers(1, *values)]

    def autoencoder_mnist(self) -> Rows:
        yield "gray MNIST, N_z | VAE | published | autoencoder | published | denoising autoencoder | PCA"
        for dim, rows in by(self._find("autoencoder_quick/rows/*/?data=mnist"), "latent_dim", "method").items():
            vae, other, *more = (rows[method] for method in ("VAE", "autoencoder", "denoising", "PCA"))
            pairs = (text for row in (vae, other) for text in (*cells(row, "test:1"), row["published"] or ""))
            yield [dim, *pairs, *(number(row["test"]) for row in more)]

    def autoencoder_frey(self) -> Rows:
        yield "Frey, N_z | VAE | autoencoder | denoising autoencoder | PCA"
        for dim, rows in by(self._find("autoencoder_quick/rows/*/?data=frey"), "latent_dim", "method").items():
            yield [dim, *(number(rows[k]["test"], 2) for k in ("VAE", "autoencoder", "denoising", "PCA"))]

    def scheduled_denoising(self) -> Rows:
        yield "training images | noise | | constant | scheduled | scheduled - constant"
        shown = {}
        runs = by(self._find("scheduled_denoising_quick/runs/*"), "num_data", "noise", "how", "seed")
        for count, noises in runs.items():
            none = noises.pop("none")[""]
            for (noise, of), (key, what) in itertools.product(noises.items(), (("log_p", "log p(x)"), ("bound",) * 2)):
                pairs = (of["constant"], none), (of["scheduled"], none), (of["scheduled"], of["constant"])
                shown[f"{count:,}", noise, what] = [gains(*pair, key) for pair in pairs]
        top = max(statistics.mean(found[1]) for label, found in shown.items() if label[2] != "bound")
        above: tuple[str, ...] = ()
        for label, found in shown.items():
            means = [statistics.mean(values) for values in found]
            errors = (statistics.stdev(values) / math.sqrt(len(values)) for values in found)
            texts = [f"{number(m, 2, '+')} ± {number(e, 2)}" for m, e in zip(means, errors, strict=True)]
            texts[1] = bold(texts[1]) if means[1] == top else texts[1]
            yield [*below(above, label[:2]), label[2], *texts]
            above = label

    # The architectures of the poster

    def architectures_activations(self) -> Rows:
        yield "activation | poster | defaults"
        columns = by(self._find("architectures_quick/activations/*"), "set-up", "activation")
        shown = [best(max, (r["valid"] for r in runs.values()), map(epoch, runs.values())) for runs in columns.values()]
        for name, *row in zip(columns["poster"], *shown, strict=True):
            yield [{"Tanh": "tanh", "Sigmoid": "sigmoid"}.get(name, name), *row]

    def architectures_depth(self) -> Rows:
        yield "hidden layers a side | poster | active units | defaults (SiLU) | active units"
        poster, ours = (self._find(f"architectures_quick/depths/*/?set-up={way}") for way in ("poster", "defaults"))
        texts = best(max, (run["valid"] for run in ours), map(epoch, ours))
        for one, other, text in zip(poster, ours, texts, strict=True):
            yield [one["encoder"], epoch(one), one["active_units"], text, other["active_units"]]

    def architectures_changes(self) -> Rows:
        yield "four layers, with | bound | active units | | bound | active units"
        runs = by(self._find("architectures_quick/alone/*"), "change")
        runs["all defaults"] = self._one("architectures_quick/depths/*/?set-up=defaults/?encoder=4")
        left = "as the poster; batch normalization; four times as long; initial scale: torch's own; mean of the data"
        right = ["residual blocks", "depth of the decoder alone", "optimizer: Adam, cosine"]
        right += ["initial scale: 1 / sqrt(fan-in)", "depth of the encoder alone"]
        right += ["activation: ReLU; activation: SiLU; no prior of the weights"]
        for name, others in zip((*left.split("; "), "all defaults"), right, strict=True):
            label = (
                re.sub("activation: |optimizer: ", "", others)
                .replace("Adam,", "Adam with a")
                .replace("scale: 1", "scale 1")
            )
            bound, *bounds = (number(runs[change]["valid"]) for change in (name, *others.split("; ")))
            units, *active = (str(runs[change]["active_units"]) for change in (name, *others.split("; ")))
            strong = bold(name) if name == "batch normalization" else name
            bound = bold(bound) if name in ("batch normalization", "all defaults") else bound
            yield [strong, bound, units, label, "; ".join(bounds), "; ".join(dict.fromkeys(active))]

    def architectures_latents(self) -> Rows:
        ways = by(self._find("architectures_quick/latents/*"), "set-up", "latent_dim")
        yield ["N_z", *map(str, ways["poster"])]
        for way, runs in ways.items():
            yield [f"{way}, validation", *(number(run["valid"]) for run in runs.values())]
            yield ["train - validation", *(number(run["train"] - run["valid"]) for run in runs.values())]

    # Sequences, modalities, missing values

    def sequences(self) -> Rows:
        yield "data | model | -log p(x) | minus the bound | effective sample size"
        data = {"linear": "linear-Gaussian system", "rows": "rows of binarized MNIST"}
        kinds = {"truth": "the system itself", "dmm": "deep Markov model", "gru": "GRU-VAE"}
        least = min(run["nll"][0] for run in self._find("sequences_quick/runs/*/?data=rows"))
        above = [""]
        for run in self._find("sequences_quick/runs/*"):
            of, size = [data[run["data"]]], run.get("effective_sample_size")
            kind = kinds.get(run["kind"], f"linear dynamical system{', fitted' if run['data'] == 'linear' else ''}")
            nll, bound = cells({"bound": [None, None], **run}, "nll:(3)", "bound:3")
            size = number(size, 1 if (size or 0) < 10 else 0)
            yield [*below(above, of), kind, bold(nll) if run["nll"][0] == least else nll, bound, size]
            above = of

    def modalities_labels(self) -> Rows:
        found = self._read("modalities_quick")
        yield ["", *(run["kind"] for run in found["runs"]), "conditional VAE", "classifier"]
        for name in found["runs"][0]["accuracy"]:
            pairs = [*(run["accuracy"][name] for run in found["runs"]), found["conditional"].get(name, [None])]
            shares = [percent(pair[0]) for pair in pairs]
            known = number(percent(found["classifier"].get(name)))
            known += " (test images)" if name.startswith("image given") else ""
            yield [name.replace("drawn", "drawn together"), *best(max, shares, numbers(1, *shares)), known]

    def modalities_bounds(self) -> Rows:
        runs, every = self._find("modalities_quick/runs/*"), "image and label and profile"
        yield ["", *(run["kind"] for run in runs)]
        words = {"label": "bound, guide sees the label", "profile": "the profile", "image": "the image"}
        rows = [(words.get(name, name), name, "guides") for name in runs[0]["guides"] if name != every]
        rows += [("all three", every, "guides"), ("log p(image, label, profile)", every, "log_p")]
        for label, name, of in rows:
            texts = [text for run in runs for text in cells(run[of], f"{name}:(1)")]
            weak = name in ("label", "profile")
            yield [label, *(texts if weak else best(max, (run[of][name][0] for run in runs), texts))]
        alone = (sum(run["log_p"][name][0] for name in ("image", "label", "profile")) for run in runs)
        yield ["log p(image) + log p(label) + log p(profile)", *numbers(1, *alone)]

    def missing_at_random(self, part: str = "tables", form: str = "(3)") -> Rows:
        yield ["table", *next(iter(self._find(f"imputation_quick/{part}/*/rmse")))]
        for name, rmse in ((name, entry["rmse"]) for name, entry in self._one(f"imputation_quick/{part}").items()):
            texts = cells(rmse, *(f"{method}:{form}" for method in rmse))
            yield [name, *best(min, (value for value, _ in rmse.values()), texts)]

    def missing_high_values(self) -> Rows:
        return self.missing_at_random("masked", "3")

    # Applications, conditions, segmentation

    def applications_restoration(self) -> Rows:
        yield "| as it is | best filter or interpolation | most probable z | posterior mean"
        for task, methods in by(self._find("applications_restore/scores/*"), "task", "method").items():
            left, *ours = (methods.pop(name)["psnr"] for name in ("as it is", "most probable z", "posterior mean"))
            name = max(methods, key=lambda method: methods[method]["psnr"])
            filtered = f"{number(methods[name]['psnr'])} ({name.removesuffix(' filter')})"
            yield [task.replace("50%", "half").replace("%", " %"), number(left), filtered, *numbers(1, *ours)]

    def applications_reduction(self) -> Rows:
        yield "| dimensions | accuracy | trustworthiness"
        found = self._one("applications_reduce/representations")
        active, dims = self._one("applications_reduce/num_active"), found["E[z | x]"]["dimensions"]
        rows = [found[name] for name in ("x", "E[z | x]", f"PCA, {dims} dimensions", f"PCA, {active} dimensions")]
        shown = best(max, (row["accuracy"] for row in rows), (cells(row, "accuracy:3")[0] for row in rows))
        sizes = [str(row["dimensions"]) for row in rows]
        sizes[1] += f", of which {active} active"
        for label, size, text, row in zip(("x", "E[z given x]", "PCA", "PCA"), sizes, shown, rows, strict=True):
            yield [label, size, text, f"{row['trustworthiness']:.3g}"]

    def applications_anomaly(self) -> Rows:
        yield "mean over ten classes | AUROC"
        words = {"PCA": "PCA reconstruction error, gray images", "isolation forest": "isolation forest, gray images"}
        words |= {"-log p(x)": "-log p(x), importance sampling"}
        words |= {"likelihood ratio": "likelihood ratio (Ren et al. 2019)"}
        words |= {"corrected for complexity": "-log p(x) corrected for complexity (Serrà et al. 2020)"}
        for name, mean in sorted(self._one("applications_anomaly/mean").items(), key=lambda pair: -pair[1]):
            yield [words.get(name, name), number(mean, 3)]

    def applications_labels(self) -> Rows:
        yield "labels | M1 + M2 | published | classifier of pixels | of codes | nearest neighbor of pixels | of codes"
        for found in (self._read("applications_labels"), self._read("applications_labels_1000")):
            shares = [method["error"] for method in found["methods"].values()]
            shares.insert(1, self._one(f"published/applications_labels/{found['num_labels']}"))
            ours, *others = (f"{number(percent(share))} %" for share in shares)
            yield [found["num_labels"], bold(ours), *others]

    def conditional_vae(self) -> Rows:
        yield "given | network alone | published | CVAE | from p(z given c) | minus the bound | published"
        published = self._one("conditional_full/published")
        for row in (*self._find("conditional_full/quadrants/*"), {"cvae": self._one("conditional_full/classes")}):
            count, cvae = row.get("quadrants"), row["cvae"]
            label = f"{count} quadrant{'s' if count > 1 else ''}" if count else "the label"
            alone = cells(row["alone"], "nll:(2)") if count else ["-"]
            theirs = numbers(1, *published.get(str(count), (None, None)))
            (ours, bound), prior = cells(cvae, "nll:(2)", "minus_bound:1"), cells(cvae["from_prior"], "nll:(2)")
            yield [label, *alone, theirs[0], bold(ours), *prior, bound, theirs[1]]

    def segmentation(self) -> Rows:
        yield "maps | parameters | draws | mean IoU of a single map | energy distance | modes covered"
        (name, net), (plain, other) = self._one("segmentation_full/runs").items()
        rows = [net, {"parameters": "", **self._one("segmentation_full/few_draws")}, other]
        energy = best(min, (row["energy"] for row in rows), (cells(row, "energy:(3)")[0] for row in rows))
        shares = [numbers(1, percent(row["coverage"]), percent(row["coverage_error"])) for row in rows]
        modes = best(max, (row["coverage"] for row in rows), (f"{share} % ({error})" for share, error in shares))
        for label, row, *texts in zip((name, "", plain), rows, energy, modes, strict=True):
            yield [label, row["parameters"], row["num_samples"], *cells(row, "iou:(3)"), *texts]

    # Numbers between words, by section and column. What is not named stays as it stands.

    def experiments(self) -> dict[str, dict[str, list[str]]]:
        shown = {name: [minutes(part) for part in parts] for name, parts in self._spent().items()}
        return {name: {"minutes of `--quick`": texts} for name, texts in shown.items()}

    def results(self) -> dict[str, dict[str, list[str]]]:
        took = self._spent()
        took["hierarchies"] = [self._find("hierarchy_ladder_quick/rows/0/seconds")]
        took["evaluation"] = [[], took["evaluation"][0]]
        took["flows"] = [list(itertools.chain(*took["flows"]))]
        shown = {name: {"minutes": [minutes(part, 0) for part in parts]} for name, parts in took.items()}
        for name, published, ours in self._compared():
            shown.setdefault(name, {}).update(published=published, ours=ours)
        shown["defaults"]["ours"] += shown["defaults"]["minutes"]
        return shown

    def _spent(self) -> dict[str, list[list[float]]]:
        """The seconds of each run, by section and by what experiments/README.md tells in one number."""
        find, quadrants = self._find, self._find("conditional_full/quadrants/*/*/?seconds")
        layers = [find(f"architectures_quick/{key}/*") for key in ("activations", "depths", "alone", "latents")]
        tuned = find("autoencoder_quick/tried/*") + find("autoencoder_quick/runs/*/?seconds")
        batch = find("samples_and_batch_quick/runs/*") + find("samples_and_batch_quick/as_published")
        applied = ("anomaly", "labels", "labels_1000", "reduce", "restore")
        ladders = (find(f"hierarchy_{part}_quick/rows/*/seconds") for part in ("ladder", "grid", "conv"))
        found = {
            "defaults": [find("mnist_defaults/training_wall_seconds"), find("mnist_defaults/evaluation/seconds")],
            "evaluation": [find(f"evaluation_{kind}/seconds") for kind in ("bfloat16", "float32")],
            "lower-bound": [find("lower_bound_full/runs/*/history/-1/seconds")],
            "la-or-lb": [find("kl_estimators_quick/runs/*/history/-1/seconds")],
            "marginal-likelihood": [find("marginal_likelihood_quick/runs/*/points/-1/seconds")],
            "iwae": [find(f"iwae_table_quick/rows/*/{key}") for key in ("seconds", "evaluation_seconds")],
            "l-against-m": [[run["history"][-1]["seconds"] for run in batch]],
            "flows": [find(f"flows_quick/runs/*/?data={name}/history/-1/seconds") for name in ("mnist", "frey")],
            "reparameterization": [find("reparameterization_quick/runs/*/trained_by/*/seconds")],
            "hierarchies": [list(itertools.chain(*ladders))],
            "vq-vae": [find("vq_mnist_quick/seconds/*") + find("vq_frey_quick/seconds/*")],
            "autoencoder": [[run["seconds"] for run in once(tuned)]],
            "scheduled-denoising": [find(f"scheduled_denoising_quick/runs/*/{k}seconds") for k in ("", "evaluation_")],
            "architectures": [
                [run["seconds_an_epoch"] * run["epochs"] for run in once(itertools.chain(*layers), "set-up", "change")]
            ],
            "modalities": [find("modalities_quick/runs/*/seconds") + find("modalities_quick/conditional/seconds")],
            "missing-values": [find("imputation_quick/seconds")],
            "applications": [[self._one(f"applications_{name}/seconds_in_all") for name in applied]],
            "conditional-vae": [[run["seconds"] for run in quadrants] + find("conditional_full/classes/seconds")],
            "segmentation": [find("segmentation_full/runs/*/seconds")],
        }
        files = {"energies": "flow_energies", "nvae": "nvae_mnist", "full-bayes": "full_bayes", "manifolds": "manifold"}
        files |= {name: name for name in ("priors", "sigma", "sequences")}
        return found | {name: [find(f"{file}_quick/runs/*/?seconds/seconds")] for name, file in files.items()}

    def _compared(self) -> Iterator[tuple[Any, ...]]:
        """Section, numbers that are published, ours."""
        find, one = self._find, self._one
        paths: Iterable[str]

        def some(digits: int, path: str, *ends: str) -> list[str]:
            return numbers(digits, *(one(path.replace("...", end)) for end in ends))

        def minus(digits: int, path: str, end: str, other: str, sign: str = "") -> list[str]:
            return [number(one(path.replace("...", end)) - one(path.replace("...", other)), digits, sign)]

        ways = "pyro_vae, compiled", "hand-written PyTorch, torch.compile"
        yield "speed", [], some(2, "benchmark/results/0/ms/...", *ways)
        yield "speed-of-a-ladder", [], some(1, "benchmark_hierarchy/results/0/ms/...", *ways)
        vae, row = (one(f"iwae_table_quick/rows/*/?layers=1/?objective={k}") for k in ("VAE/?k=1", "IWAE/?k=50"))
        epochs = f"{row['epochs'] / row['share_of_full_schedule']:,.0f}"
        yield "iwae", [*cells(row, "published:2"), epochs], [*cells(row, "nll:1"), str(row["epochs"])]
        yield "defaults", cells(vae, "published:2"), some(2, "mnist_defaults/evaluation/nll", "")
        row = self._read("evaluation_bfloat16")
        yield "evaluation", [], [minutes([row["seconds"]]), *cells(row, "peak_memory_GiB:2")]
        paths = (f"lower_bound_full/points/*/?data=mnist/?bound=valid/?estimator=L^B/?samples=1000000.0/?latent_dim={n}"
                 for n in (10, 20))  # fmt: skip
        bounds = [one(path) for path in paths]
        yield "lower-bound", *([number(row[key]) for row in bounds] for key in ("published", "ours"))
        _, *rows = self.la_or_lb()
        yield "la-or-lb", [], [row[3] for row in rows if "L =" not in row[0]][::2]
        ais = "marginal_likelihood_quick/runs/*/?num_train=1000/?way=.../check/ais/log_prob"
        yield "marginal-likelihood", [], some(1, ais, "AEVB", "wake-sleep")
        ((samples, theirs),) = one("published/samples_and_batch").items()
        history = "samples_and_batch_quick/as_published/history/*/?samples=.../read"
        yield "l-against-m", [number(theirs)], some(1, history, samples)
        paths = "flows_quick/published/nll/...", "flows_quick/runs/*/?data=mnist/?flow=.../nll"
        yield "flows", *(minus(1, path, "planar, K = 80", "diagonal") for path in paths)
        paths = "published/...", "runs/*/?flow=planar, K = 32/?energy=.../free_energy"
        yield "energies", *(some(2, f"flow_energies_quick/{path}", "U1", "U4") for path in paths)
        paths = "priors_quick/published/static, ...", "priors_quick/runs/*/?data=static/?prior=.../nll"
        yield "priors", *(minus(2, path, "Vamp", "standard") for path in paths)
        linear = find("beta_quick/linear/*")
        same = sum(row["active"] == row["exact_active"] for row in linear)
        yield "beta", [str(linear[end]["exact_active"]) for end in (0, -1)], [str(same)]
        sides = find("sigma_quick/runs/*/?sigma=optimal/as_trained")
        off = max(abs(side["score"] - side["identity"]) for side in sides)
        yield "sigma", [], [power(10 ** math.ceil(math.log10(off)))]
        found = by(find("reparameterization_quick/runs/*"), "family")
        bounds = (max(way["test"] for way in found[k]["trained_by"].values()) for k in ("Logistic", "Exponential"))
        yield "reparameterization", [], numbers(1, *bounds)
        ladder, *flat = find("hierarchy_ladder_quick/rows/*/nll")
        yield "hierarchies", some(2, "hierarchy_ladder_quick/published/nll", ""), numbers(2, ladder, min(flat))
        theirs, found = one("nvae_mnist_quick/published"), one("nvae_mnist_quick/runs/*/?system=NVAE")
        yield "nvae", *([*cells(row, "nll:2"), str(row["epochs"])] for row in (theirs, found))
        codes = (some(1, f"vq_{name}_quick/perplexity/...", "z1", "z2") for name in ("mnist", "frey"))
        yield "vq-vae", [], [*itertools.chain(*codes)]
        paths = (f"full_bayes_quick/runs/*/?data=mnist/?N={n}/?method=.../valid_end" for n in (1000, 50_000))
        yield "full-bayes", [], [*itertools.chain(*(minus(1, path, "VB, matrix", "MAP", "+") for path in paths))]
        paths = (f"autoencoder_quick/rows/*/?data=mnist/?latent_dim=10/?method=.../{k}" for k in ("published", "test"))
        yield "autoencoder", *(some(1, path, "VAE", "autoencoder") for path in paths)
        noises = by(find("scheduled_denoising_quick/runs/*/?num_data=2000"), "noise", "how", "seed")
        none = noises.pop("none")[""]
        gain = [each for noise in noises.values() for each in gains(noise["scheduled"], none, "log_p")]
        yield "scheduled-denoising", [], [number(statistics.mean(gain), 1, "+")]
        path = "architectures_quick/alone/*/?change=.../valid"
        yield "architectures", [], some(0, path, "as the poster", "batch normalization")
        yield "manifolds", some(1, "published/manifold/mse", ""), some(1, "manifold_quick/runs/*/?data=mnist/mse", "")
        path = "applications_restore/scores/*/?task=lower 50% missing/?method=.../psnr"
        yield "applications", [], minus(1, path, "posterior mean", "as it is")
        yield "sequences", [], some(3, "sequences_quick/runs/*/?data=linear/?kind=.../nll/0", "truth", "dmm")
        path = "conditional_full/quadrants/0/.../nll"
        yield "conditional-vae", some(1, "conditional_full/published/1/...", "0", "1"), some(1, path, "alone", "cvae")
        path = "modalities_quick/runs/*/?kind={}/accuracy/label given image/0"
        yield "modalities", [], numbers(1, *(percent(one(path.format(kind))) for kind in ("MVAE", "MMVAE")))
        errors = find("imputation_quick/tables/*/rmse")
        yield "missing-values", [], [str(sum(min(error.values()) == error["MIWAE"] for error in errors))]
        path = "segmentation_full/runs/.../energy"
        yield "segmentation", [], some(3, path, "probabilistic U-Net", "plain U-Net")


def markdown(rows: Rows) -> str:
    """The one form of all tables."""
    header = next(rows)
    header = [cell.strip() for cell in header.split("|")] if isinstance(header, str) else header
    texts = ([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in (header, *rows))
    lines = ["|" + "|".join(f" {text} " if text else " " for text in row) + "|" for row in texts]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def with_numbers(text: str, found: Iterable[str]) -> str:
    """The text with these numbers in the place of its first ones."""
    left = iter(found)
    return NUMBER.sub(lambda old: next(left, old[0]), text)


def filled(block: str, page: str, found: dict[str, dict[str, list[str]]]) -> str:
    """The block with these numbers; its rows are known by the section that they link."""
    places = dict(re.findall(r"^\[(.+)\]: .*?([\w-]+)(?:\.md)?$", page, re.MULTILINE))
    header, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines())
    for row in rows:
        link = re.search(r"\(#(.+)\)", row[0])
        cells = found.get(link[1] if link else places[row[-1].strip("[]")], {})
        row[:] = [with_numbers(cell, cells.get(column, [])) for column, cell in zip(header, row, strict=True)]
    return markdown(iter([header, *rows]))


def written(page: str, tables: Tables) -> tuple[str, list[str]]:
    """The page as the files have it, and what differed."""
    differ: list[str] = []

    def told(name: str, old: str, new: str) -> str:
        lines = itertools.zip_longest(old.splitlines(), new.splitlines(), fillvalue="")
        differ.extend(f"{name}: {one!r} is to be {other!r}" for one, other in lines if one != other)
        return new

    def block(found: re.Match[str]) -> str:
        name, old = found[1], found[2].removeprefix("\n")
        made = getattr(tables, name.replace("-", "_"))()
        if isinstance(made, dict) and not old.strip():
            raise ValueError(f"table {name}: between its markers stands nothing; write its rows there")
        new = filled(old, page, made) if isinstance(made, dict) else markdown(made)
        return f"{name} -->\n{told(name, old, new)}"

    def sentence(found: re.Match[str]) -> str:
        name = re.sub(r"[^\w\- ]", "", found[2].lower()).replace(" ", "-")
        parts = ([minutes(part), str(len(part))][: min(len(part), 2)] for part in tables._spent().get(name, []))
        return found[1] + told(name, found[3], with_numbers(found[3], itertools.chain(*parts)))

    return SENTENCE.sub(sentence, BLOCK.sub(block, page)), differ


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, tell what differs from the files")
    check, tables, differs = parser.parse_args(arguments).check, Tables(), False
    for path in PAGES:
        page, differ = written(path.read_text(encoding="utf-8"), tables)
        print("".join(f"{path.relative_to(HERE.parent)}, {line}\n" for line in differ), end="")
        differs |= bool(differ)
        if not check:
            path.write_text(page, encoding="utf-8")
    return int(check and differs)


if __name__ == "__main__":
    sys.exit(main())
