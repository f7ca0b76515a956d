"""Bad command lines of every command: status 2, and one sentence that tells option, value and what was expected."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_vae import cli, runs
from pyro_vae.applications import names

SECONDS = 30
#: What no sentence of a library holds: marks of a parser, of Python and of torch.
RAW = re.compile(
    r"usage:|Traceback|Union subtypes|does not validate|Namespace\(|NestedArg|<class|<function| at 0x|object of type"
    r"|typing\.|NoneType|Parser key|init_args'|\.\.\.\)|positional argument|unexpected keyword|object has no attribute"
    r"|not subscriptable|not iterable|\bunpack|Import path|import path|ForwardRef|Optional\[|\w+Error\b",
    re.IGNORECASE,
)


class Line(NamedTuple):
    """A bad line, its kind, and words that the sentence has to have."""

    kind: str
    words: tuple[str, ...]
    said: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: pyro-vae {' '.join(map(_shown, self.words))}"


def _shown(word: str) -> str:
    return ascii(word) if not word or re.search(r"[^\x21-\x7e]", word) else word


# The folder

FILES = {
    "mine.py": """
        import pyro_vae as pv
        from torch import nn

        class Mine(pv.models.MLPVAE): pass
        class Other: pass
        class Needs(pv.models.MLPVAE):
            def __init__(self, event_shape, rate: float): super().__init__(event_shape)
        class Fails(pv.models.MLPVAE):
            def __init__(self, event_shape): raise RuntimeError("no luck")
        def function(x): return x
        number = 3
    """,
    "broken.py": "import nowhere_at_all\n",
    "syntax.py": "def (:\n",
    "raises.py": "raise RuntimeError('in the file')\n",
    "latin.csv": b"a,b\n1,\xe9\n2,3\n",
    "words.csv": "a,b\n1,x\n2,y\n",
    "rows.csv": "a,b\n1,2\n3\n",
    "empty.csv": "",
    "header.csv": "a,b\n",
    "text.npy": "not an array",
    "empty.npz": b"",
    "text.zip": "x",
    "image.png": b"\x89PNG\r\n\x1a\n no image",
}
#: Configurations that are none, and a word that the sentence has.
CONFIGS = {
    "brackets": ("[" * 3000, ""),
    "list": ("- 1\n- 2\n", "mapping"),
    "number": ("3\n", "mapping"),
    "tabs": ("a:\t- b\n\tc", "YAML"),
    "binary": (b"\x00\xff\xfe\x80", "YAML"),
    "open text": ('data: "x', "YAML"),
    "twice": ("epochs: 2: 3\n", "YAML"),
    "numbered": ("1: 2\n", "mapping"),
    "misspelled": ("data: x.npy\nepohcs: 3\n", "epochs"),
    "word for a number": ("epochs: many\n", "epochs"),
    "list for a number": ("batch_size: [1, 2]\n", "batch"),
    "mapping for a number": ("seed: {a: 1}\n", "seed"),
    "null": ("epochs: null\n", "epochs"),
    "out of range": ("epochs: -1\n", "epochs"),
    "no pair": ("model: torch.nn.Linear\n", "model"),
    "model 5": ("model: 5\n", "model"),
    "model []": ("model: []\n", "model"),
    "model without a class": ("model: {init_args: {latent_dim: 3}}\n", "model"),
    "argument of another": ("model: {class_path: pyro_vae.models.MLPVAE, init_args: {num_codes: 3}}\n", "num_codes"),
    "argument of a wrong type": (
        "model: {class_path: pyro_vae.models.MLPVAE, init_args: {latent_dim: big}}\n", "latent_dim",
    ),
    "estimator misspelled": ("estimator: {class_path: pyro_vae.IWEA}\n", "IWAE"),
    "estimator 3": ("estimator: 3\n", "estimator"),
    "estimator's argument": ("estimator: {class_path: pyro_vae.IWAE, init_args: {num_particlse: 3}}\n", "num_particles"),
    "optimizer of another kind": ("optimizer: {class_path: torch.nn.Linear}\n", "optimizer"),
    "optimizer's argument": ("optimizer: {class_path: torch.optim.Adam, init_args: {lr: fast}}\n", "lr"),
    "itself": ("config: config.yaml\n", "config"),
    "trust": ("trust: true\n", "trust"),
    "a function": ("estimator: os.system\n", "os.system"),
}  # fmt: skip


def prepared(folder: Path) -> None:
    """Data, files and runs, in the working folder."""
    chance = np.random.default_rng(0)
    np.save("x.npy", (chance.random((60, 6)) < 0.5).astype(np.float32))
    np.save("reals.npy", chance.normal(size=(60, 6)).astype(np.float32))
    np.save("counts.npy", chance.integers(0, 300, (60, 6)))
    np.save("nan.npy", np.full((60, 6), np.nan, np.float32))
    np.save("objects.npy", np.array([None, 1], dtype=object), allow_pickle=True)
    np.save("words.npy", np.array(["a", "b"]))
    np.savez("strange.npz", a=np.ones((3, 2)), b=np.ones(2))
    for name, text in FILES.items():
        Path(name).write_bytes(text if isinstance(text, bytes) else "\n".join(_dedented(text)).encode())
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main([*TRAIN, "--out", "run"]) == 0
        assert cli.main([*TRAIN, "--out", "trusted", "--model", "mine.Mine"]) == 0
    Path("empty").mkdir()
    Path("noted").mkdir()
    Path("noted/config.yaml").mkdir()
    for name, (text, _) in CONFIGS.items():
        Path(f"{name}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        Path(f"run {name}").mkdir()
        shutil.copy(f"{name}.yaml", f"run {name}/config.yaml")
    for name, path in (("no checkpoint", "checkpoint*"), ("no configuration", "config.yaml")):
        shutil.copytree("run", name)
        for found in Path(name).glob(path):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    for name, kept in (("cut", 100), ("emptied", 0)):
        shutil.copytree("run", name)
        for found in Path(name).rglob("*.safetensors"):
            found.write_bytes(found.read_bytes()[:kept])
    shutil.copytree("run", "no results")
    Path("no results/evaluation.json").write_text("{[")
    shutil.copytree("run", "moved")
    text = Path("moved/config.yaml").read_text()
    Path("moved/config.yaml").write_text(text.replace("data: x.npy", "data: gone.npy"))
    shutil.copytree("run", "changed")
    text = Path("changed/config.yaml").read_text()
    Path("changed/config.yaml").write_text(text.replace("latent_dim: 2", "latent_dim: 3"))


def _dedented(text: str) -> list[str]:
    return [line.removeprefix("        ") for line in text.splitlines()]


# The lines

TRAIN = (
    "train", "--data", "x.npy", "--epochs", "1", "--batch-size", "20", "--compile", "eager", "--progress", "false",
)  # fmt: skip
SMALL = ("--model.hidden", "[4]", "--model.latent_dim", "2")
EVALUATE = ("evaluate", "run", "--limit", "2", "--compile", "eager", "--progress", "false")
OPTIONS = {
    "train": (
        "config data root split valid_size test_size image_size channels covariates labels missing download "
        "binarization standardize log_inputs with_labels site model estimator optimizer scheduler epochs batch_size "
        "weight_prior beta schedules seed out resume compile precision device clip_norm average patience num_data "
        "checkpoint_every progress trust"
    ).split(),
    "evaluate": (
        "split method num_samples num_chains num_steps start schedule limit chunk seed compile precision progress "
        "trust"
    ).split(),
    "plot": ["site", "trust"],
    "estimators": ["width"],
    "apply restore": (
        "task method level mask missing factor num_images num_steps num_samples num_chains out seed progress trust"
    ).split(),
    "apply anomaly": (
        "data held_out num_train num_test latent_dim hidden epochs batch_size num_samples rate compile out seed "
        "progress"
    ).split(),
    "apply reduce": "site num_neighbors num_data num_ranked accuracy out seed progress trust".split(),
    "apply labels": (
        "data num_labels num_data num_features latent_dim hidden alpha share feature_epochs epochs batch_size lr "
        "compile out seed progress"
    ).split(),
}
WORDS = ("binarization", "method", "start", "schedule", "compile", "precision", "task")
FLAGS = ("missing", "download", "standardize", "log_inputs", "with_labels", "resume", "progress", "trust", "accuracy")
NUMBERS = ("valid_size", "test_size", "beta", "clip_norm", "average", "checkpoint_every", "level", "rate", "alpha",
           "share", "lr")  # fmt: skip
TEXTS = ("config", "data", "root", "split", "covariates", "labels", "site", "model", "estimator", "optimizer",
         "scheduler", "weight_prior", "schedules", "out", "device", "mask")  # fmt: skip
OPTIONAL = (
    "root split valid_size test_size image_size channels covariates labels binarization standardize log_inputs "
    "with_labels site estimator scheduler weight_prior beta schedules out device clip_norm average patience num_data "
    "num_samples num_chains num_steps start schedule limit chunk precision width mask held_out num_train num_test "
    "accuracy"
).split()
STRANGE = ("x", "five", "[1, 2]", "{a: 1}", "1,5", "ü", "\u200b", "☃", "\udcff", "3 4", "0x", "--", "'", "[", "{", "1e", "")
#: Numbers that cannot be meant; the rest of the options has none.
RANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "epochs": ("0", "-5", "99999999999999999999"),
        "batch_size": ("0", "-1", "61", "1000000"),
        "seed": ("-1",),
        "beta": ("-1", "nan", "inf", "-1e-9"),
        "clip_norm": ("0", "-1", "nan", "inf"),
        "average": ("-0.1", "1", "1.5", "nan"),
        "patience": ("-1",),
        "num_data": ("0", "-3"),
        "checkpoint_every": ("-1", "nan"),
        "valid_size": ("-1", "1.5", "60", "nan", "-0.5"),
        "test_size": ("-1", "1000", "nan"),
        "device": ("cuda", "cpux", "5"),
        "model.latent_dim": ("0", "-1"),
        "model.hidden": ("[0]", "[-1]"),
        "optimizer.lr": ("-1", "nan"),
    },
    "evaluate": {
        "num_samples": ("0", "-1"),
        "limit": ("0", "-1"),
        "chunk": ("0", "-1"),
        "seed": ("-1",),
    },
    "estimators": {"width": ("0", "-10")},
    "apply restore": {
        "level": ("-1", "nan", "inf"),
        "missing": ("-0.5", "1.5", "nan"),
        "factor": ("0", "-1"),
        "num_images": ("0", "-1"),
        "num_steps": ("-1",),
        "num_samples": ("0", "-1"),
        "num_chains": ("0", "-1"),
        "seed": ("-1",),
        "mask": ("nowhere.npy", "x.npy", "text.npy", "diagonal"),
    },
    "apply anomaly": {
        "held_out": ("-1", "77"),
        "num_train": ("0", "-1"),
        "num_test": ("0", "-1"),
        "latent_dim": ("0", "-1"),
        "hidden": ("[0]", "[-1]"),
        "epochs": ("0", "-1"),
        "batch_size": ("0", "-1"),
        "num_samples": ("0", "-1"),
        "rate": ("-0.1", "1.1", "nan"),
        "seed": ("-1",),
        "data": ("x.npy", "nowhere", "mnits"),
    },
    "apply reduce": {
        "num_neighbors": ("0", "-1"),
        "num_data": ("0", "-1"),
        "num_ranked": ("0", "-1"),
        "accuracy": ("true",),
        "seed": ("-1",),
        "site": ("zz",),
    },
    "apply labels": {
        "num_labels": ("0", "-1", "10000000"),
        "num_data": ("0", "-1"),
        "num_features": ("-1",),
        "latent_dim": ("0", "-1"),
        "hidden": ("0", "-1"),
        "alpha": ("-1", "nan"),
        "share": ("-0.1", "1.1", "nan"),
        "feature_epochs": ("0", "-1"),
        "epochs": ("0", "-1"),
        "batch_size": ("0", "-1"),
        "lr": ("-1", "nan"),
        "seed": ("-1",),
        "data": ("x.npy", "nowhere", "mnits"),
    },
}
#: Classes that options take, of which one letter is changed.
CLASSES = {
    "estimator": ("pyro_vae.IWAE", "pyro_vae.SGVB_B", "pyro_vae.estimators.Capacity", "pyro.infer.Trace_ELBO"),
    "optimizer": ("torch.optim.Adam", "torch.optim.RMSprop", "torch.optim.Adagrad"),
    "scheduler": ("pyro_vae.Cosine", "pyro_vae.Linear", "torch.optim.lr_scheduler.StepLR"),
    "beta": ("pyro_vae.Linear", "pyro_vae.Cyclical"),
    "weight_prior": ("pyro_vae.WeightPrior", "pyro_vae.training.weight_priors.SpectralPrior"),
    "model": ("MLPVAE", "pyro_vae.models.ConvVAE", "pyro_vae.models.VampVAE", "mine.Mine"),
    "model.likelihood": ("pyro_vae.likelihoods.Bernoulli", "pyro_vae.likelihoods.Laplace"),
    "model.posterior": ("pyro_vae.posteriors.DiagonalNormal", "pyro_vae.posteriors.LowRankNormal"),
    "model.prior": ("pyro_vae.priors.StandardNormal", "pyro_vae.priors.VampPrior"),
}
#: What is there and of another kind, and what is not.
NO_CLASSES = (
    "torch.nn.Linear", "os.system", "os.path", "math.pi", "nowhere.Thing", "mine.Other", "mine.function", "mine.number",
    "mine.Nothing", "broken.Thing", "syntax.Thing", "raises.Thing", "./mine.py", "mine", "..", ".x", "x.", "pyro_vae",
    "pyro_vae.models", "int", "builtins.int", "3", "true", "[]", "{}", "{class_path: 3}", "Ümläut.Ding", "a b",
    "torch.optim.Optimizer", "collections.abc.Sequence",
)  # fmt: skip
#: Arguments of parts: the class, its option, and a value that is of no use; misspelled as well.
NESTED = (
    ("estimator", "pyro_vae.IWAE", "num_particles", "x"),
    ("estimator", "pyro_vae.IWAE", "num_particles", "2.5"),
    ("estimator", "pyro_vae.Renyi", "alpha", "one"),
    ("estimator", "pyro_vae.Capacity", "capacity", "[]"),
    ("optimizer", "torch.optim.Adam", "lr", "fast"),
    ("optimizer", "torch.optim.SGD", "momentum", "x"),
    ("optimizer", "torch.optim.Adam", "betas", "x"),
    ("scheduler", "pyro_vae.Cosine", "warmup", "x"),
    ("scheduler", "torch.optim.lr_scheduler.StepLR", "step_size", "x"),
    ("beta", "pyro_vae.Linear", "start", "x"),
    ("weight_prior", "pyro_vae.WeightPrior", "scale", "x"),
    ("model", "MLPVAE", "latent_dim", "x"),
    ("model", "MLPVAE", "hidden", "x"),
    ("model", "MLPVAE", "latent_dim", "2.5"),
    ("model", "VampVAE", "num_components", "x"),
    ("model.likelihood", "pyro_vae.likelihoods.Normal", "scale", "x"),
    ("model.likelihood", "pyro_vae.likelihoods.Normal", "sigmoid_mean", "perhaps"),
    ("model.posterior", "pyro_vae.posteriors.LowRankNormal", "rank", "x"),
    ("model.prior", "pyro_vae.priors.VampPrior", "num_components", "x"),
)
#: Options that contradict each other, or the data; the last words are what the sentence has.
CONTRADICTIONS = (
    (*TRAIN, "--data", "reals.npy", "--binarization", "dynamic", "/", "binarization"),
    (*TRAIN, "--data", "reals.npy", "--model.likelihood", "pyro_vae.Bernoulli", "/", "Bernoulli"),
    (*TRAIN, "--data", "counts.npy", "--model.likelihood", "pyro_vae.Bernoulli", "/", "Bernoulli"),
    (*TRAIN, "--data", "nan.npy", "/", "nan"),
    (*TRAIN, "--standardize", "true", "--binarization", "dynamic", "/", "binarization"),
    (*TRAIN, "--standardize", "true", "--missing", "true", "/", "missing"),
    (*TRAIN, "--data", "reals.npy", "--log-inputs", "true", "/", "log-inputs"),
    (*TRAIN, "--with-labels", "true", "/", "labels"),
    (*TRAIN, "--labels", "a", "/", "labels"),
    (*TRAIN, "--covariates", "a", "/", "covariates"),
    (*TRAIN, "--split", "published", "/", "split"),
    (*TRAIN, "--image-size", "8", "/", "image"),
    (*TRAIN, "--channels", "3", "/", "channels"),
    (*TRAIN, "--data", "digits", "--valid-size", "10", "/", "valid"),
    (*TRAIN, "--beta", "0.5", "--schedules", "{beta: {class_path: pyro_vae.Linear}}", "/", "beta"),
    (*TRAIN, "--patience", "3", "--valid-size", "0", "/", "patience"),
    (*TRAIN, "--valid-size", "0.6", "--test-size", "0.6", "/", "valid"),
    (*TRAIN, "--resume", "true", "/", "resume"),
    (*TRAIN, "--out", "x.npy", "/", "x.npy"),
    (*TRAIN, "--out", "run", "/", "run"),
    (*TRAIN, "--out", "run", "--resume", "true", "--model.latent_dim", "3", "/", "latent_dim"),
    (*TRAIN, "--site", "zz", "/", "zz"),
    (*TRAIN, "--schedules", "{nothing: {class_path: pyro_vae.Linear}}", "/", "nothing"),
    (*TRAIN, "--model", "CodePrior", "/", "first"),
    (*TRAIN, "--model", "CodePrior", "--first", "run", "/", "first"),
    (*TRAIN, "--model", "CodePrior", "--first", "nowhere", "/", "nowhere"),
    (*TRAIN, "--model", "ConvVAE", "/", "ConvVAE"),
    (*TRAIN, "--model", "FullBayes", "/", "pair"),
    (*TRAIN, "--model", "mine.Needs", "/", "rate"),
    (*TRAIN, "--model", "mine.Fails", "/", "no luck"),
    (*TRAIN, "--estimator", "pyro_vae.Enumeration", "/", "Enumeration"),
    (*TRAIN, "--estimator", "pyro_vae.VIMCO", "--estimator.num_particles", "1", "/", "num_particles"),
    (*TRAIN, "--config", "run/config.yaml", "--config", "nowhere.yaml", "/", "nowhere.yaml"),
    (*EVALUATE, "--num-chains", "3", "/", "--num-chains"),
    (*EVALUATE, "--method", "ais", "--num-samples", "3", "/", "--num-samples"),
    (*EVALUATE, "--method", "ais", "--precision", "bfloat16", "/", "--precision"),
    (*EVALUATE, "--method", "bdmc", "--num-steps", "0", "/", "num"),
    (*EVALUATE, "--method", "hmc", "--num-chains", "0", "/", "num"),
    (*EVALUATE, "--method", "hmc", "--schedule", "linear", "/", "--schedule"),
    ("evaluate", "trusted", "/", "--trust"),
    ("plot", "trusted", "/", "--trust"),
    ("plot", "run", "--site", "zz", "/", "zz"),
    ("apply", "restore", "run", "/", "image"),
    ("apply", "restore", "trusted", "/", "--trust"),
    ("apply", "reduce", "run", "--num-neighbors", "1000", "/", "neighbors"),
)
#: Data that are none, and a word that the sentence has.
DATA = {
    "text.npy": "text.npy", "empty.npz": "empty.npz", "objects.npy": "objects.npy", "words.npy": "words.npy",
    "strange.npz": "strange.npz", "latin.csv": "UTF-8", "words.csv": "'x'", "rows.csv": "rows.csv",
    "empty.csv": "empty.csv", "header.csv": "header.csv", "text.zip": "text.zip", "image.png": "image.png",
    "empty": "empty", "mnits": "mnist", "digit": "digits", "": "", "/dev/null": "/dev/null", "mine.py": "mine.py",
    "☃.npy": "☃.npy", "run": "run", "x.npz": "x.npy", "pipe.npy": "pipe.npy", "a" * 5000: "aaa", "\0": "",
}  # fmt: skip


def _misspelled(word: str, chance: random.Random) -> str:
    """A word with two letters exchanged, one left out, or one twice."""
    places = [i for i, letter in enumerate(word) if letter.isalpha()]
    for _ in range(20):
        at = chance.choice(places)
        made = chance.choice(
            (
                word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
                word[:at] + word[at + 1 :],
                word[:at] + 2 * word[at] + word[at + 1 :],
            )
        )
        if made != word and made[:1].isalpha() and not made.endswith("."):
            return made
    return word + "q"


def _dashed(option: str) -> str:
    return f"--{option.replace('_', '-')}" if "." not in option else f"--{option}"


def _begun(command: str) -> tuple[str, ...]:
    """A good line of a command, to which something bad is added."""
    if command == "train":
        return (*TRAIN, *SMALL)
    if command == "evaluate":
        return EVALUATE
    takes_run = command in ("plot", "apply restore", "apply reduce")
    return (*command.split(), *(("run",) if takes_run else ()))


def _command(chance: random.Random) -> str:
    return "train" if chance.random() < 0.4 else chance.choice(list(OPTIONS))


def misspelled_option(chance: random.Random) -> Line:
    command = _command(chance)
    option = chance.choice(OPTIONS[command])
    bad = _misspelled(option, chance)
    while bad in OPTIONS[command] or option == "lr":
        option = chance.choice(OPTIONS[command])
        bad = _misspelled(option, chance)
    value = ("--" + bad.replace("_", "-"), "3") if chance.random() < 0.7 else (f"--{bad}=3",)
    return Line("misspelled option", (*_begun(command), *value), ("--" + bad.replace("_", "-"), _dashed(option)))


def cut_option(chance: random.Random) -> Line:
    """An option without its end, which might be that of another in a later version."""
    command = _command(chance)
    long = [option for option in OPTIONS[command] if len(option) > 5]
    if not long:
        return misspelled_option(chance)
    option = chance.choice(long)
    bad = option[: chance.randint(4, len(option) - 1)].rstrip("_")
    if bad in OPTIONS[command]:
        return misspelled_option(chance)
    return Line("cut option", (*_begun(command), _dashed(bad), "3"), (_dashed(bad), _dashed(option)))


def of_another_type(chance: random.Random) -> Line:
    command = _command(chance)
    option = chance.choice([option for option in OPTIONS[command] if option not in TEXTS])
    if option == "missing" and command == "apply restore":
        option = "level"
    value = chance.choice(STRANGE)
    if option == "hidden" and value == "[1, 2]" and command == "apply anomaly":
        value = "x"
    return Line("of another type", (*_begun(command), f"{_dashed(option)}={value}"), (_dashed(option), _value(value)))


def out_of_range(chance: random.Random) -> Line:
    command = chance.choice(list(RANGES))
    option = chance.choice(list(RANGES[command]))
    value = chance.choice(RANGES[command][option])
    typed = (f"{_dashed(option)}={value}",)
    named = option.rpartition(".")[2]
    begun = _begun(command)
    return Line("out of range", (*begun, *typed), (named if "." in option else _dashed(option), _value(value)))


def _value(text: str) -> str:
    """What of a value the sentence has to show; one of control characters or of nothing in quotes."""
    return text if text.strip() and text.isprintable() and len(text) < 60 else ""


def misspelled_class(chance: random.Random) -> Line:
    option = chance.choice(list(CLASSES))
    name = chance.choice(CLASSES[option])
    room, dot, short = name.rpartition(".")
    bad = room + dot + _misspelled(short, chance)
    return Line("misspelled class", (*TRAIN, f"--{option}", bad), (_dashed(option), bad, short))


def no_class(chance: random.Random) -> Line:
    option, value = chance.choice(list(CLASSES)), chance.choice(NO_CLASSES)
    if (option == "optimizer" and value == "torch.optim.Optimizer") or (option, value) == ("beta", "3"):
        value = "nowhere.Thing"
    return Line("no class", (*TRAIN, f"{_dashed(option)}={value}"), (_dashed(option), value))


def bad_argument(chance: random.Random) -> Line:
    option, kind, argument, value = chance.choice(NESTED)
    begun = (*TRAIN, *(SMALL if "." in option else ()), f"--{option}", kind)
    way = chance.random()
    if way < 0.4:
        return Line("argument of another type", (*begun, f"--{option}.{argument}", value), (argument, value))
    bad = _misspelled(argument, chance)
    if way < 0.8:
        return Line("misspelled argument", (*begun, f"--{option}.{bad}", "3"), (bad, argument))
    written = f"{{class_path: {kind if '.' in kind else 'pyro_vae.models.' + kind}, init_args: {{{bad}: 3}}}}"
    return Line("misspelled argument", (*TRAIN, f"--{option}", written), (bad, argument))


def of_another_model(chance: random.Random) -> Line:
    model, option = chance.choice(
        (
            ("MLPVAE", "model.num_codes"), ("ConvVAE", "model.hidden"), ("VQVAE", "model.latent_dim"),
            ("MLPVAE", "model.encoder.init_args.hidden"), ("MLPVAE", "model.pair.latent_dim"), ("MLPVAE", "first"),
            ("MLPVAE", "model.likelihood.init_args.rank"), ("LadderVAE", "model.latent_dim"),
            ("FullBayes", "model.pair.num_codes"),
        )
    )  # fmt: skip
    last = option.rpartition(".")[2]
    more = ("--model.pair", "MLPVAE") if model == "FullBayes" else ()
    return Line("option of another model", (*TRAIN, "--model", model, *more, f"--{option}", "3"), (last,))


def missing(chance: random.Random) -> Line:
    command = _command(chance)
    option = chance.choice([option for option in OPTIONS[command] if option != "trust"])
    way = chance.random()
    if way < 0.6:
        return Line("without a value", (*_begun(command), _dashed(option)), (_dashed(option),))
    command = chance.choice(("evaluate", "plot", "apply restore", "apply reduce"))
    if way < 0.8:
        return Line("without a run", tuple(command.split()), ("run",))
    word = chance.choice(("words", "ü", "3", "-3", "-x", "--", ""))
    return Line("one word more", (*_begun(command), word), (_value(word),))


def null(chance: random.Random) -> Line:
    command = _command(chance)
    taken = [option for option in OPTIONS[command] if option not in OPTIONAL and option not in TEXTS]
    if not taken:
        return missing(chance)
    option = chance.choice(taken)
    return Line("null", (*_begun(command), f"{_dashed(option)}=null"), (_dashed(option), "null"))


def bad_config(chance: random.Random) -> Line:
    name = chance.choice(list(CONFIGS))
    word = CONFIGS[name][1]
    way = chance.random()
    if way < 0.7:
        return Line("configuration", (*TRAIN, "--config", f"{name}.yaml"), (f"{name}.yaml", word))
    return Line("run with a bad configuration", (chance.choice(("evaluate", "plot")), f"run {name}"), (word,))


def no_config(chance: random.Random) -> Line:
    path = chance.choice(("nowhere.yaml", "empty", "x.npy", "", "mine.py", "ü.yaml", "/dev/null/x", "a" * 300))
    return Line("no configuration", (*TRAIN, "--config", path), (_value(path),))


def no_run(chance: random.Random) -> Line:
    command = chance.choice(("evaluate", "plot", "apply restore", "apply reduce"))
    run = chance.choice(
        ("nowhere", "empty", "noted", "x.npy", "no checkpoint", "no configuration", "cut", "emptied", "moved",
         "changed", "ru", "", "ü", "/", "a" * 300, "no results", "\0")
    )  # fmt: skip
    if run == "no results":
        command = "evaluate"
    return Line("no run", (*command.split(), run), (_value(run),))


def contradiction(chance: random.Random) -> Line:
    *words, _, said = chance.choice(CONTRADICTIONS)
    return Line("contradiction", tuple(words), (said,))


def no_data(chance: random.Random) -> Line:
    data = chance.choice(list(DATA))
    return Line("no data", (*TRAIN, "--data", data, "--download", "false"), (DATA[data],))


def no_command(chance: random.Random) -> Line:
    command = chance.choice([*OPTIONS])
    bad = _misspelled(command.split()[-1], chance)
    if command.startswith("apply"):
        return Line("no application", ("apply", bad, "run"), (bad, command.split()[-1]))
    return Line("no command", (bad, "run"), (bad, command))


KINDS: tuple[Callable[[random.Random], Line], ...] = (
    misspelled_option, cut_option, of_another_type, of_another_type, out_of_range, out_of_range, misspelled_class,
    no_class, bad_argument, bad_argument, of_another_model, missing, null, bad_config, no_config, no_run, contradiction,
    contradiction, no_data, no_command,
)  # fmt: skip
assert set(names()) == {name.removeprefix("apply ") for name in OPTIONS if name.startswith("apply ")}


def generated(count: int, seed: int) -> Iterator[Line]:
    """``count`` lines, the kinds in turn."""
    chance = random.Random(seed)
    for index in range(count):
        yield KINDS[index % len(KINDS)](chance)


# The judge


class Outcome(NamedTuple):
    wrong: str
    text: str


class _TooLong(BaseException):
    pass


def outcome(line: Line, seconds: float = SECONDS) -> Outcome:
    """What is wrong with the answer to a line (nothing, if it is good), and the answer."""

    def stop(*_: Any) -> None:
        raise _TooLong

    out, err = io.StringIO(), io.StringIO()
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    status: Any = None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(list(line.words))
    except _TooLong:
        return Outcome(f"over {seconds} s", err.getvalue())
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        return Outcome("raised", f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    return Outcome(judged(line, status, err.getvalue()), err.getvalue())


def judged(line: Line, status: Any, text: str) -> str:
    """What is wrong with a status and what was said."""
    said = [words for words in text.splitlines() if words.startswith("pyro-vae: error: ")]
    other = [w for w in text.splitlines() if w.strip() and not w.startswith(("pyro-vae: error: ", "pyro-vae: warning"))]
    if status not in (1, 2):
        return f"status {status}"
    if len(said) != 1 or other:
        return f"{len(said)} sentences and {len(other)} other lines"
    sentence = said[0].removeprefix("pyro-vae: error: ")
    if found := RAW.search(sentence):
        return f"raw: {found[0]}"
    if len(sentence) > 600 or len(sentence.split()) < 4 or not sentence.rstrip().endswith((".", "?", ")")):
        return "no sentence"
    plain = sentence.replace("_", "-")
    lacking = [word for word in line.said if word and word.replace("_", "-") not in plain]
    return f"does not say {', '.join(map(_shown, lacking))}" if lacking else ""


def storm(count: int, seed: int, seconds: float = SECONDS) -> list[tuple[Line, Outcome]]:
    """The answers to generated lines, in a folder of their own."""
    before, path = os.getcwd(), list(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        drawn, cli._draw = cli._draw, lambda *where: None  # figures take longer than all else
        try:
            prepared(Path(folder))
            os.mkfifo("pipe.npy")
            cli._draw = drawn
            return [(line, outcome(line, seconds)) for line in generated(count, seed)]
        finally:
            cli._draw = drawn
            os.chdir(before)
            sys.path[:] = path
            runs.options._load.cache_clear()
            runs.options._prepared.cache_clear()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=300, help="lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", action="store_true", help="show good ones as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    found = storm(options.times, options.seed)
    wrong = [(line, answer) for line, answer in found if answer.wrong]
    for line, answer in found if options.answers else wrong:
        print(f"{line}\n    {answer.wrong or 'good'}: {_shown(answer.text.strip()[-700:])}")
    counts, total = Counter(line.kind for line, _ in wrong), Counter(line.kind for line, _ in found)
    for kind, count in sorted(total.items()):
        print(f"{counts[kind]:4} of {count:4}  {kind}")
    print(
        f"{len(wrong):,} of {len(found):,} lines ended in no sentence; seed {options.seed}; "
        f"{time.monotonic() - started:.0f} s"
    )
    return bool(wrong)
