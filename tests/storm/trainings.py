"""What the storms train, drawn from pairs, data, estimators, optimizers and all else that a run is made of."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pairs import binary, functions, mlp_vae, plain_object, pyro_module
from registry import ESTIMATORS, SYSTEMS
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae
from pyro_vae.data import Mixed, Split
from pyro_vae.models import MLPVAE
from pyro_vae.training import Cosine, Cyclical, Linear, WeightPrior


class Drift(nn.Module):
    """A buffer that moves and is not persistent, another that is, and dropout before a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()), persistent=False)
        self.norm, self.dropout = nn.BatchNorm1d(6), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.level += 0.01
        return self.norm(self.dropout(x)) + self.level


def _drifting() -> Any:
    pair = MLPVAE((6,), 2, (4,))
    pair.posterior.network.layers.insert(0, Drift())
    return pair


def _mlp() -> Any:
    return MLPVAE((6,), 2, (4,))


PAIRS: dict[str, Callable[[], Any]] = {
    "MLP": _mlp,
    "batch norm, dropout, buffers": _drifting,
    "functions": lambda: functions()[0],
    "PyroModule": lambda: pyro_module()[0],
    "object": lambda: plain_object()[0],
    "images": lambda: mlp_vae()[0],
    "VQVAE": SYSTEMS["VQVAE"],
    "LadderVAE": SYSTEMS["LadderVAE"],
    "FullBayes": SYSTEMS["FullBayes"],
    "SemiSupervisedVAE": SYSTEMS["SemiSupervisedVAE"],
}
_SHAPES = {"images": (1, 8, 8), "VQVAE": (1, 8, 8)}


class Rows(IterableDataset[Any]):
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.x)


def _own_generator(x: torch.Tensor) -> Any:
    return DataLoader(TensorDataset(x), 4, shuffle=True, generator=torch.Generator().manual_seed(3))


STREAMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda x: x,
    "train and valid": lambda x: (x, x[:6]),
    "dynamic": lambda x: (Split((x * 200).to(torch.uint8), binarization="dynamic"), Split(x[:5])),
    "loader": lambda x: DataLoader(TensorDataset(x), 4, shuffle=True),
    "loader with a generator": _own_generator,
    "loader and valid": lambda x: (DataLoader(TensorDataset(x), 4, shuffle=True), x[:6]),
    "iterable": lambda x: DataLoader(Rows(x), 4),
    "batches": lambda x: [x[:4], x[4:8], x[8:]],
    "mixed": lambda x: Mixed(x[:8], Split(x[8:])),
    "labels": lambda x: TensorDataset(x, torch.arange(len(x)) % 3),
}


def _made(kind: type[optim.Optimizer], **options: Any) -> Any:
    return functools.partial(kind, **{"lr": 0.01, **options})


class Momentum(optim.Optimizer):
    """One of one's own, with state in float64 and whole numbers."""

    def __init__(self, parameters: Any, lr: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "decay": 0.9})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["steps"] = state.get("steps", 0) + 1
                    state["moment"] = state.get("moment", 0.0) * group["decay"] + parameter.grad.double()
                    parameter -= (group["lr"] / state["steps"] * state["moment"]).float()


OPTIMIZERS: dict[str, Any] = {
    "SGD": _made(optim.SGD, momentum=0.9, nesterov=True),
    "Adam": _made(optim.Adam),
    "Adam, fused": _made(optim.Adam, fused=True),
    "Adam, tensor": lambda parameters: optim.Adam(parameters, lr=torch.tensor(0.01)),
    "AdamW": _made(optim.AdamW, amsgrad=True),
    "Adadelta": _made(optim.Adadelta),
    "Adafactor": _made(optim.Adafactor),
    "Adagrad": _made(optim.Adagrad, lr_decay=0.1),
    "Adamax": _made(optim.Adamax),
    "ASGD": _made(optim.ASGD),
    "NAdam": _made(optim.NAdam),
    "RAdam": _made(optim.RAdam),
    "RMSprop": _made(optim.RMSprop, momentum=0.5, centered=True),
    "Rprop": _made(optim.Rprop),
    "groups": lambda parameters: optim.Adam(
        [{"params": [p], "lr": 0.01 / (1 + i)} for i, p in enumerate(parameters)], betas=(0.8, 0.95)
    ),
    "own": Momentum,
    "Pyro's ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.9, "clip_norm": 1.0}),
    "Pyro's ExponentialLR": lambda: pyro.optim.ExponentialLR(
        {"optimizer": optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.8}
    ),
}


def _chained(optimizer: Any) -> Any:
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.5), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


def _in_turn(optimizer: Any) -> Any:
    first, second = lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2), lr_scheduler.StepLR(optimizer, 1, 0.5)
    return lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[1])


SCHEDULERS: dict[str, Any] = {
    "none": None,
    "cosine": Cosine(warmup=0.3),
    "linear": Linear(1.0, 0.1, duration=1.0),
    "StepLR": functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.5),
    "MultiStepLR": functools.partial(lr_scheduler.MultiStepLR, milestones=[1, 2], gamma=0.3),
    "CosineAnnealingWarmRestarts": functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2),
    "CyclicLR": functools.partial(
        lr_scheduler.CyclicLR, base_lr=0.001, max_lr=0.01, step_size_up=1, cycle_momentum=False
    ),
    "OneCycleLR": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.01, total_steps=6, cycle_momentum=False),
    "PolynomialLR": functools.partial(lr_scheduler.PolynomialLR, total_iters=3),
    "ReduceLROnPlateau": functools.partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5),
    "LambdaLR": functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
    "ChainedScheduler": _chained,
    "SequentialLR": _in_turn,
}
#: Numbers of the training, moved or not, of which one is drawn.
MORE: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "beta": {"beta": Linear(duration=0.7)},
    "cyclical beta": {"beta": Cyclical(2)},
    "clipped": {"clip_norm": 0.5},
    "prior over the weights": {"weight_prior": WeightPrior()},
    "bfloat16": {"precision": "bfloat16"},
}
AVERAGES: dict[str, dict[str, Any]] = {
    "last": {},
    "averaged": {"average": 0.9},
    "best": {"patience": 2},
    "best of averages": {"average": 0.5, "patience": 1},
}
LOSSES: dict[str, Callable[[], Any]] = {
    "by itself": lambda: None,
    **ESTIMATORS,
    "Trace_ELBO": lambda: pyro.infer.Trace_ELBO(num_particles=2),
    "RenyiELBO": lambda: pyro.infer.RenyiELBO(num_particles=2),
}
CHECKPOINTS = {"at each step": 0.0, "sometimes": 0.02, "in the end": 1e9}
AXES: dict[str, dict[str, Any]] = {
    "pair": PAIRS, "data": STREAMS, "estimator": LOSSES, "optimizer": OPTIMIZERS, "scheduler": SCHEDULERS,
    "weights": AVERAGES, "more": MORE, "checkpoints": CHECKPOINTS,
}  # fmt: skip
EPOCHS = 3


class Configuration(NamedTuple):
    """One of what is above of each kind, and how it is compiled."""

    names: tuple[str, ...]
    compile: str

    def __str__(self) -> str:
        return ", ".join([*self.names, self.compile])

    def fit(self, out: Path) -> pyro_vae.Run:
        """Trains, or goes on."""
        chosen = {kind: AXES[kind][name] for kind, name in zip(AXES, self.names, strict=True)}
        torch.manual_seed(7)
        pair, x = chosen["pair"](), binary(*_SHAPES.get(self.names[0], (6,)), size=12)
        optimizer = chosen["optimizer"]
        return pyro_vae.fit(
            pair,
            chosen["data"](x),
            estimator=chosen["estimator"](),
            optimizer=optimizer() if self.names[3].startswith("Pyro's") else optimizer,
            scheduler=chosen["scheduler"],
            **chosen["weights"],
            **chosen["more"],
            checkpoint_every=chosen["checkpoints"],
            compile=self.compile,  # type: ignore[arg-type]
            epochs=EPOCHS,
            batch_size=5,  # and a last batch of another size
            seed=4,
            out=out,
            resume=True,
            progress=False,
        )


def configurations(seed: int, modes: tuple[str, ...]) -> Iterator[Configuration]:
    """Without an end; each of what there is comes about equally often."""
    chance = random.Random(seed)
    decks: dict[str, list[str]] = {kind: [] for kind in AXES}
    while True:
        names = []
        for kind, deck in decks.items():
            if not deck:
                deck += chance.sample(list(AXES[kind]), len(AXES[kind]))
            usual = kind in ("estimator", "pair", "data") and chance.random() < 0.5  # so that most go together
            names.append(next(iter(AXES[kind])) if usual else deck.pop())
        yield Configuration(tuple(names), chance.choice(modes))
