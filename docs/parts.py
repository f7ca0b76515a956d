"""How each part of a VAE is made, and what is seen once it is: the catalogue's examples, of which its facts are read.

An example is Python that runs as it stands (``tests/test_docs.py`` runs all of them), with ``{name}`` and ``{shape}``
filled in. A part that needs nothing else has the example of its room.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.distributions import constraints, kl_divergence

from pyro_vae.distributions.supports import bare

ROOMS = {
    "priors": "Priors",
    "posteriors": "Posteriors",
    "likelihoods": "Likelihoods",
    "transforms": "Steps of flows",
    "networks": "Networks",
    "distributions": "Distributions",
}
LATENT, IMAGE = 8, (1, 28, 28)

# What is made by the others, or of which they are made: these are in the reference alone.
NO_PARTS = {
    "transforms": ("Bijection", "Parameters", "Step"),
    "networks": ("HasInShape", "HasOutShape"),
    "distributions": ("UniformLevels",),
}

EXAMPLE = {
    "priors": """
prior = pv.priors.{name}(8)
z = prior().sample((5,))
print(z.shape)
""",
    "posteriors": """
network = pv.MLP((1, 28, 28), {shape}, hidden=(200,))  # for a latent of 8
posterior = pv.posteriors.{name}(network)
q = posterior(torch.rand(5, 1, 28, 28))
print(q.rsample().shape)
""",
    "likelihoods": """
network = pv.MLP(8, {shape}, hidden=(200,))  # for images of 1 x 28 x 28
likelihood = pv.likelihoods.{name}(network)
p = likelihood(torch.randn(5, 8))
print(p.log_prob(p.sample()).shape)  # nats for each datum
""",
    "transforms": """
step = pv.transforms.{name}(8)
z = torch.randn(5, 8)
y, ladj = step().call_and_ladj(z)
print(y.shape, ladj.shape)

# the posterior of a VAE, carried through four of them
base = pv.posteriors.DiagonalNormal(pv.MLP((1, 28, 28), (2, 8), hidden=(200,)))
posterior = pv.posteriors.Flow(base, [pv.transforms.{name}(8) for _ in range(4)])
""",
    "networks": "",
    "distributions": "",
    "estimators": """
vae = pv.models.MLPVAE((1, 28, 28), latent_dim=2, hidden=(100,))
x = torch.rand(5, 1, 28, 28).round()
estimator = pv.{name}({needed})  # pv.fit(vae, x, estimator=estimator) trains by it
print(estimator.bound(vae, x).shape)  # nats for each datum
""",
}

EXAMPLES: dict[str, dict[str, str]] = {
    "priors": {
        "Flow": """
steps = [pv.transforms.InverseAutoregressive(8) for _ in range(2)]
prior = pv.priors.Flow(pv.priors.StandardNormal(8), steps, invert=True)
z = prior().sample((5,))
print(z.shape)
""",
        "MixtureOfNormals": """
prior = pv.priors.MixtureOfNormals(8, num_components=10)
z = prior().sample((5,))
print(z.shape)
""",
        "VampPrior": """
posterior = pv.posteriors.DiagonalNormal(pv.MLP((1, 28, 28), (2, 8), hidden=(200,)))
prior = pv.priors.VampPrior(posterior, (1, 28, 28), num_components=50)
z = prior().sample((5,))
print(z.shape)
""",
    },
    "posteriors": {
        "Flow": """
base = pv.posteriors.DiagonalNormal(pv.MLP(100, (2, 8), hidden=()))
steps = [pv.transforms.Planar(8, context_dim=100) for _ in range(4)]
posterior = pv.posteriors.Flow(base, steps, network=pv.MLP((1, 28, 28), 100))
q = posterior(torch.rand(5, 1, 28, 28))
print(q.rsample().shape)
""",
        "SemiImplicitNormal": """
head = pv.MLP(100 + 4, (2, 8), hidden=(100,))  # of 100 features and 4 numbers of noise
posterior = pv.posteriors.SemiImplicitNormal(pv.MLP((1, 28, 28), 100), head, noise_dim=4, num_mixtures=10)
q = posterior(torch.rand(5, 1, 28, 28))
print(q.rsample().shape)
""",
    },
    "likelihoods": {
        "Classes": """
network = pv.MLP(8, 10, hidden=(200,))  # for one of ten classes
likelihood = pv.likelihoods.Classes(network, num_classes=10)
p = likelihood(torch.randn(5, 8))
print(p.log_prob(torch.tensor([3, 1, 4, 1, 5])).shape)  # nats for each datum
""",
    },
    "transforms": {
        "NormalizingFlow": """
base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(5, 8), 1.0), 1)
q = pv.transforms.NormalizingFlow(base, [pv.transforms.Planar(8)() for _ in range(4)])
print(q.log_prob(q.rsample()).shape)
""",
    },
    "networks": {
        "MLP": """
network = pv.MLP((1, 28, 28), (2, 8), hidden=(200,))
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "GatedMLP": """
network = pv.networks.GatedMLP((1, 28, 28), (2, 8), hidden=(200, 200))
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "ResidualMLP": """
network = pv.networks.ResidualMLP((1, 28, 28), (2, 8), hidden=(200, 200))
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "ConvEncoder": """
network = pv.networks.ConvEncoder((1, 28, 28), (2, 8))
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "ConvDecoder": """
network = pv.networks.ConvDecoder(8, (1, 28, 28))
print(network(torch.randn(5, 8)).shape)
""",
        "ResidualEncoder": """
network = pv.networks.ResidualEncoder((1, 28, 28), (2, 8))
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "ResidualDecoder": """
network = pv.networks.ResidualDecoder(8, (1, 28, 28))
print(network(torch.randn(5, 8)).shape)
""",
        "UNet": """
network = pv.networks.UNet((1, 28, 28), (3, 28, 28))
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "Convolutional": """
layers = [nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 16)]
network = pv.networks.Convolutional((1, 28, 28), (2, 8), layers)
print(network(torch.rand(7, 5, 1, 28, 28)).shape)  # seven particles
""",
        "MaskedConv2d": """
network = pv.networks.MaskedConv2d(1, 16, 7, mask="A")
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "BatchNorm": """
network = pv.networks.BatchNorm(8)
print(network(torch.randn(7, 5, 8)).shape)
""",
        "Gated": """
network = pv.networks.Gated(nn.Linear(8, 4), nn.Linear(8, 4))
print(network(torch.randn(5, 8)).shape)
""",
        "Residual": """
network = pv.networks.Residual(nn.Sequential(nn.SiLU(), nn.Linear(8, 8)))
print(network(torch.randn(5, 8)).shape)
""",
        "Centered": """
mean = torch.full((1, 28, 28), 0.13)  # of the training data
network = pv.networks.Centered(pv.MLP((1, 28, 28), (2, 8)), mean)
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "Corrupted": """
network = pv.networks.Corrupted(pv.MLP((1, 28, 28), (2, 8)), pv.networks.Masking(0.3))
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "Masking": """
network = pv.networks.Masking(0.3)
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "SaltAndPepper": """
network = pv.networks.SaltAndPepper(0.1)
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "GaussianNoise": """
network = pv.networks.GaussianNoise(0.5)
print(network(torch.rand(5, 1, 28, 28)).shape)
""",
        "SelfMasking": """
network = pv.networks.SelfMasking((13,), missing="high")
print(network(torch.randn(5, 13)).shape)
""",
        "OneHot": """
network = pv.networks.OneHot(10)
print(network(torch.tensor([3, 1, 4])).shape)
""",
        "Numbers": """
network = pv.networks.Numbers((3, 4), mean=torch.zeros(3, 4))
print(network(torch.randn(5, 3, 4)).shape)
""",
        "Joined": """
posterior = pv.posteriors.DiagonalNormal(pv.MLP(784 + 10, (2, 8)))
network = pv.networks.Joined(posterior, (1, 28, 28))  # of an image and a class
q = network(torch.rand(5, 1, 28, 28), torch.eye(10)[:5])
print(q.rsample().shape)
""",
    },
    "estimators": {
        "Enumeration": """
vae = pv.models.SemiSupervisedVAE((1, 28, 28), num_classes=10, latent_dim=2, hidden=(100,))
x = torch.rand(5, 1, 28, 28).round()
y = torch.full((5,), -1)  # no label is known
estimator = pv.Enumeration()  # pv.fit(vae, TensorDataset(x, y), estimator=estimator) trains by it
print(estimator.bound(vae, x, y).shape)  # nats for each datum
""",
    },
    "distributions": {
        "Exponential": "p = pv.distributions.Exponential(torch.tensor(2.0))",
        "Cauchy": "p = pv.distributions.Cauchy(torch.tensor(0.0), torch.tensor(1.0))",
        "Logistic": "p = pv.distributions.Logistic(torch.tensor(0.0), torch.tensor(1.0))",
        "Gumbel": "p = pv.distributions.Gumbel(torch.tensor(0.0), torch.tensor(1.0))",
        "Laplace": "p = pv.distributions.Laplace(torch.tensor(0.0), torch.tensor(1.0))",
        "LogNormal": "p = pv.distributions.LogNormal(torch.tensor(0.0), torch.tensor(1.0))",
        "Weibull": "p = pv.distributions.Weibull(torch.tensor(1.0), torch.tensor(1.5))",
        "Kumaraswamy": "p = pv.distributions.Kumaraswamy(torch.tensor(2.0), torch.tensor(3.0))",
        "StudentT": "p = pv.distributions.StudentT(torch.tensor(4.0))",
        "Uniform": "p = pv.distributions.Uniform(torch.tensor(0.0), torch.tensor(1.0))",
        "Gamma": "p = pv.distributions.Gamma(torch.tensor(2.0), torch.tensor(1.0))",
        "Beta": "p = pv.distributions.Beta(torch.tensor(2.0), torch.tensor(3.0))",
        "Dirichlet": "p = pv.distributions.Dirichlet(torch.ones(8))",
        "PowerSpherical": "p = pv.distributions.PowerSpherical(torch.tensor([0.6, 0.8]), torch.tensor(5.0))",
        "VonMisesFisher": "p = pv.distributions.VonMisesFisher(torch.tensor([0.6, 0.8]), torch.tensor(5.0))",
        "SphereUniform": "p = pv.distributions.SphereUniform(8)",
        "MultivariateNormal": "p = pv.distributions.MultivariateNormal(torch.zeros(8), scale_tril=torch.eye(8))",
        "LowRankNormal": "p = pv.distributions.LowRankNormal(torch.zeros(8), torch.ones(8), torch.randn(8, 2))",
        "MatrixNormal": "p = pv.distributions.MatrixNormal(torch.zeros(3, 2), torch.eye(3), torch.eye(2))",
        "Rows": """
vector = pv.distributions.MultivariateNormal(torch.zeros(6), scale_tril=torch.eye(6))
p = pv.distributions.Rows(vector, (3, 2))
""",
        "MarkovNormal": """
def conditional(previous, t):  # loc and scale of a step given the one before it
    return 0.9 * previous, 0.4 * torch.ones_like(previous)


p = pv.distributions.MarkovNormal(torch.zeros(2), torch.ones(2), num_steps=10, conditional=conditional)
""",
        "MixtureOfExperts": """
experts = [torch.distributions.Independent(torch.distributions.Normal(torch.zeros(8), s), 1) for s in (1.0, 2.0)]
p = pv.distributions.MixtureOfExperts(experts, torch.tensor([0.3, 0.7]))
""",
        "ContinuousBernoulli": "p = pv.distributions.ContinuousBernoulli(logits=torch.tensor(0.7))",
        "Poisson": "p = pv.distributions.Poisson(torch.tensor(1.1))  # the logarithm of the rate",
        "NegativeBinomial": "p = pv.distributions.NegativeBinomial(torch.tensor(7.0), logits=torch.tensor(0.3))",
        "ClassNumber": "p = pv.distributions.ClassNumber(torch.zeros(10))",
        "QuantizedCategorical": "p = pv.distributions.QuantizedCategorical(torch.zeros(256))",
        "DiscretizedLogistic": "p = pv.distributions.DiscretizedLogistic(torch.tensor(0.4), torch.tensor(0.1))",
        "DiscretizedLogisticMixture": """
p = pv.distributions.DiscretizedLogisticMixture(torch.zeros(5), torch.rand(5), 0.1 * torch.ones(5))
""",
        "OptimalNormal": "p = pv.distributions.OptimalNormal(torch.zeros(5, 8), torch.tensor(0.3), event_dim=1)",
    },
}
DRAWN = "\nprint(p.log_prob(p.sample((5,))).shape)  # nats\n"

# What `pyro-vae train` is told. None where a part is made in Python.
COMMANDS = {
    "priors": "--model.prior pyro_vae.priors.{name}",
    "posteriors": "--model.posterior pyro_vae.posteriors.{name}",
    "likelihoods": "--model.likelihood pyro_vae.likelihoods.{name}",
    "transforms": "--model.transforms '[pyro_vae.transforms.{name}]' --model.num_transforms 4",
}
COMMAND: dict[str, dict[str, str | None]] = {
    "priors": {
        "Flow": None,
        "VampPrior": "--model pyro_vae.models.VampVAE",
        "MixtureOfNormals": f"{COMMANDS['priors']} --model.prior.num_components 10",
        "SphereUniform": f"{COMMANDS['priors']} --model.posterior pyro_vae.posteriors.PowerSpherical",
        "SparseBeta": f"{COMMANDS['priors']} --model.posterior pyro_vae.posteriors.Beta",
    },
    "posteriors": {
        "Flow": "--model.transforms '[pyro_vae.transforms.Planar]' --model.num_transforms 4",
        "SemiImplicitNormal": None,
        "PowerSpherical": f"{COMMANDS['posteriors']} --model.prior pyro_vae.priors.SphereUniform",
        "VonMisesFisher": f"{COMMANDS['posteriors']} --model.prior pyro_vae.priors.SphereUniform",
    },
    "likelihoods": {
        "Normal": f"{COMMANDS['likelihoods']} --model.likelihood.scale shared",
        "Classes": None,
        "Poisson": f"--data counts.npy {COMMANDS['likelihoods']}",
        "NegativeBinomial": f"--data counts.npy {COMMANDS['likelihoods']}",
    },
    "transforms": {"NormalizingFlow": None},
}


def public(room: str) -> list[str]:
    return list(importlib.import_module(f"pyro_vae.{room}").__all__)


def kind(room: str, name: str) -> Any:
    return getattr(importlib.import_module(f"pyro_vae.{room}"), name)


@cache
def names(room: str) -> list[str]:
    """The parts of a room: its classes that are made, each once."""
    left = NO_PARTS.get(room, ())
    return [name for name in public(room) if name not in left and _is_part(kind(room, name), name)]


def _is_part(value: Any, name: str) -> bool:
    return inspect.isclass(value) and value.__name__ == name and not (value.__doc__ or "").startswith("Base of")


def example(room: str, name: str) -> str:
    """Its Python, without what is imported."""
    text = EXAMPLES.get(room, {}).get(name, EXAMPLE[room])
    if not text:
        raise LookupError(f"docs/parts.py has no example of pyro_vae.{room}.{name}")
    if "{shape}" in text:
        shape = kind(room, name)(nn.Identity()).network_shape((LATENT,) if room == "posteriors" else IMAGE)
        text = text.replace("{shape}", str(shape[0] if len(shape) == 1 else tuple(shape)))
    if "{needed}" in text:
        text = text.replace("{needed}", ", ".join(str(value) for _, value in needed(kind(room, name))))
    text = text.replace("{name}", name).strip("\n")
    return text + DRAWN.rstrip("\n") if room == "distributions" else text


def needed(estimator: Any) -> list[tuple[str, Any]]:
    """What an estimator cannot do without, with small values; of an importance-weighted one more than one particle."""
    if estimator.__name__ in ("IWAE", "DReG"):
        return [("num_particles", 5)]
    given = zip(inspect.signature(estimator).parameters.values(), estimator._small, strict=False)
    return [(parameter.name, value) for parameter, value in given if parameter.default is parameter.empty]


def imports(text: str) -> str:
    used = [line for word, line in (("torch.", "import torch"), ("nn.", "from torch import nn")) if f"{word}" in text]
    return "\n".join([*used, *([""] if used else []), "import pyro_vae as pv", "", text])


@cache
def made(room: str, name: str) -> dict[str, Any]:
    """The names of its example once it has run, and as ``said`` what that printed."""
    said: list[str] = []
    scope: dict[str, Any] = {"print": lambda *values: said.append(" ".join(map(str, values)))}
    torch.manual_seed(0)
    exec(imports(example(room, name)), scope)
    return {**scope, "said": said}


def shown(room: str, name: str) -> str:
    """The example, and behind each ``print`` what it gives."""
    said = iter(made(room, name)["said"])
    lines = []
    for line in imports(example(room, name)).splitlines():
        if line.startswith("print("):
            code, _, remark = line.partition("  # ")
            line = f"{code}  # {next(said)}{f': {remark}' if remark else ''}"
        lines.append(line)
    return "\n".join(lines)


def command(room: str, name: str) -> str | None:
    """By which ``pyro-vae train`` has it."""
    if room not in COMMANDS:
        return None
    options = COMMAND[room].get(name, COMMANDS[room])
    other = {"priors": "posteriors", "posteriors": "priors"}.get(room)
    if options == COMMANDS[room] and other and name in public(other):  # of its own family
        options += f" --model.{other[:-1]} pyro_vae.{other}.{{name}}"
    return options and options.replace("{name}", name)


# Facts


def space(distribution: Any) -> str:
    """Where its values are."""
    support = bare(distribution.support)
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if support is constraints.real or support is constraints.real_vector:
        return "real numbers"
    if getattr(support, "is_discrete", False):
        if support is constraints.boolean:
            return "0 and 1"
        if low is not None:
            return f"{low}, {low + 1}, ..." + ("" if high is None else f", {high}")
        if hasattr(support, "num_levels"):
            return f"the levels k / {support.num_levels - 1}"
    if support is constraints.simplex:
        return "the simplex: positive numbers that sum to one"
    if low is not None:
        low, high = (None if end is None else f"{torch.as_tensor(end).flatten()[0].item():g}" for end in (low, high))
        return f"numbers above {low}" if high is None else f"numbers in ({low}, {high})"
    return str(support)


def facts(room: str, name: str) -> Iterator[tuple[str, str]]:
    """What is read off the part once it is made."""
    scope = made(room, name)
    if room == "priors":
        prior = scope["prior"]
        yield "Called", "``prior()`` gives p(z), of batch shape ``()``"
        yield "z", space(prior())
        count = sum(parameter.numel() for parameter in prior.parameters())
        yield "Learned", f"{count:,} numbers, for a latent of {LATENT}" if count else "nothing, by default"
        yield "KL in closed form", links(room, name) or "from no posterior; it is sampled"
    elif room == "posteriors":
        yield "Called", "``posterior(x)`` gives q(z | x), of batch shape ``[*, B]``, for ``x: [*, B, *event]``"
        yield "z", space(scope["q"])
        if "network" in scope:
            shape = ", ".join(map(str, scope["posterior"].network_shape((LATENT,))))
            family = getattr(scope["posterior"], "distribution", None)
            order = f": {', '.join(family.arg_constraints)}" if family else ""
            yield "Its network gives", f"``[*, B, {shape}]`` for a latent of {LATENT}{order}"
        yield "KL in closed form", links(room, name) or "to no prior; it is sampled"
    elif room == "likelihoods":
        likelihood, p = scope["likelihood"], scope["p"]
        yield "Called", "``likelihood(z)`` gives p(x | z), of batch shape ``[*]``, for ``z: [*, latent_dim]``"
        yield "x", space(p)
        event = tuple(p.event_shape)
        shape = ", ".join(map(str, likelihood.network_shape(event)))
        yield "Its network gives", f"``[*, {shape}]`` for a datum of shape ``{event}``"
    elif room == "transforms":
        if "step" in scope:
            yield "Called", "``step(context)`` gives a bijection; ``step()`` where it has parameters of its own"
            count = sum(parameter.numel() for parameter in scope["step"].parameters())
            yield "Learned", f"{count:,} numbers, for a latent of {LATENT}" if count else "nothing"
    elif room == "distributions":
        p = scope["p"]
        yield "Values", space(p)
        yield "Gradients", "through its draws (``rsample``)" if p.has_rsample else "its draws have none"


def links(room: str, name: str) -> str:
    """The parts of the other room to which, or from which, a KL is registered."""
    other = "posteriors" if room == "priors" else "priors"
    found = [
        f":class:`~pyro_vae.{other}.{partner}`"
        for partner in names(other)
        if _is_known(*((name, partner) if room == "priors" else (partner, name)))
    ]
    return ", ".join(found)


@cache
def _is_known(prior: str, posterior: str) -> bool:
    q, p = made("posteriors", posterior)["q"], made("priors", prior)["prior"]()
    if space(q) != space(p):
        return False
    try:
        return bool(kl_divergence(q, p.expand(q.batch_shape)).isfinite().all())
    except (NotImplementedError, ValueError, RuntimeError):
        return False
