"""Any network as a Pyro random module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pyro_vae._checks import checked
from pyro_vae._pyro import is_running, make_root
from pyro_vae._tensors import module_
from pyro_vae._torch import BatchNorm
from pyro_vae.bayesian.layers import LAYERS, BayesianLayer
from pyro_vae.bayesian.posteriors import MeanField
from pyro_vae.bayesian.priors import IsotropicNormal

Network = TypeVar("Network", bound=nn.Module)

#: Their gains and shifts, a few numbers a unit, stay parameters.
_NORMALIZATIONS = (
    BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
)


@checked
def bayesian_(
    module: Network,
    networks: Sequence[str] = ("",),
    prior: Callable[[Sequence[int]], nn.Module] = IsotropicNormal,
    posterior: Callable[[Tensor], nn.Module] = MeanField,
) -> Network:
    """Makes the weights of a network random variables, in place.

    Each linear layer and convolution becomes a :class:`BayesianLayer`, and what holds it a ``PyroModule``
    (``to_pyro_module_``), so that its weights are sites of the Pyro program that runs it. The gains and shifts of
    batch, layer and group normalization stay parameters. Pyro's own guides and MCMC see ordinary sites. In a pair the
    weights stand outside the plate over the data: draw them first, by :func:`sample_prior` in the model and
    :func:`sample_posterior` in the guide.

    Args:
        module: a network, or a module that holds networks, such as a pair. It becomes a ``PyroModule`` itself.
        networks: dotted names, inside ``module``, of the networks that become random; by default all of it.
        prior: makes p(theta) of a layer of its shape (R, C), a class of :mod:`pyro_vae.bayesian.priors` or a function.
        posterior: makes q(theta) of a layer of the weights ``[R, C]`` that it has, a class of
            :mod:`pyro_vae.bayesian.posteriors` or a function.

    Returns:
        ``module``; where it is itself a layer, the random layer that takes its place.

    Raises:
        ValueError: if a layer is of a kind that is not known here, or shares its weights with another one, which it
            names; or there is no such network, or no layer in it.

    Source: Kingma & Welling (2013), appendix F.

    >>> network = bayesian_(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    >>> [name for name, _ in bayesian_layers(network)]
    ['0', '2']
    """
    module_(module=module)
    found = [name for network in networks for name in _layers_of(module, network)]
    layers = {name: LAYERS[_kind(module.get_submodule(name))](module.get_submodule(name), prior, posterior)
              for name in found}  # fmt: skip
    if "" in layers:
        return layers[""]  # type: ignore[return-value]
    for name, layer in layers.items():
        parent, _, key = name.rpartition(".")
        module.get_submodule(parent)._modules[key] = layer
    around = {"", *(name[:end] for name in layers for end, character in enumerate(name) if character == ".")}
    for network in networks:  # as PyroModules, normalizations announce their parameters to Pyro
        parts = module.get_submodule(network).named_modules(prefix=network)
        around.update(name for name, part in parts if isinstance(part, _NORMALIZATIONS))
    for name in around:
        part = module.get_submodule(name)
        order = list(part._modules)
        to_pyro_module_(part, recurse=False)  # which puts those that are PyroModules last, also in a Sequential
        for key in order:
            part._modules[key] = part._modules.pop(key)
    make_root(module)
    return module


def _layers_of(module: nn.Module, network: str) -> list[str]:
    """The names of the layers that become random."""
    module_(module=module)
    try:
        root = module.get_submodule(network)
    except AttributeError:
        parts = [name for name, part in module.named_modules() if name and any(True for _ in part.parameters())]
        raise ValueError(
            f"there is no network {network!r} in this {type(module).__name__}; its parts with weights: "
            f"{', '.join(parts) or 'none'}."
        ) from None
    found = []
    for name, part in root.named_modules(prefix=network):
        if isinstance(part, BayesianLayer):
            raise ValueError(f"the layer {name} has random weights already.")
        parametrized = _is_parametrized(part)
        if isinstance(part, _NORMALIZATIONS) or not (parametrized or any(True for _ in part.parameters(False))):
            continue
        if parametrized or _kind(part) is None:
            what = "a parametrized " if parametrized else "a "
            raise ValueError(
                f"the layer {name or type(part).__name__} is {what}{type(part).__name__}, whose weights cannot be made "
                f"random: {', '.join(kind.__name__ for kind in LAYERS)} can, without weight normalization. Build the "
                "network of those, or name the networks that hold no other layer."
            )
        _check_alone(module, name, part)
        found.append(name)
    if not found:
        raise ValueError(f"there is no layer with weights in {network or 'this'!r} {type(root).__name__}.")
    return found


def _is_parametrized(layer: nn.Module) -> bool:
    """Whether the weights are computed from others, by a parametrization or by a hook, as torch did before."""
    return is_parametrized(layer) or isinstance(vars(layer).get("weight"), Tensor)


def _check_alone(module: nn.Module, name: str, layer: nn.Module) -> None:
    for key, parameter in layer.named_parameters():
        for place, other in module.named_modules(remove_duplicate=False):
            if place != name and any(parameter is own for own in other.parameters(False)):
                raise ValueError(
                    f"the layer {name} shares its {key} with {place}, which would no longer have the same weights. "
                    "Give each layer weights of its own."
                )


def _kind(layer: nn.Module) -> Any:
    """The kind of layer; a subclass only if it computes what that does."""
    return next((kind for kind in LAYERS if isinstance(layer, kind) and type(layer).forward is kind.forward), None)


@checked
def bayesian_layers(module: nn.Module) -> Iterator[tuple[str, BayesianLayer]]:
    """``(name, layer)`` of the layers with random weights.

    >>> import pyro_vae as pv
    >>> from pyro_vae import bayesian
    >>> network = bayesian.bayesian_(pv.MLP(4, 2, hidden=(8,)))
    >>> [type(layer).__name__ for name, layer in bayesian.bayesian_layers(network)]
    ['BayesianLinear', 'BayesianLinear']
    """
    module_(module=module)
    return ((name, part) for name, part in module.named_modules() if isinstance(part, BayesianLayer))


@checked
def sample_prior(module: nn.Module) -> dict[str, Tensor]:
    """theta ~ p(theta) for every layer: a statement of the model, before its plate over the data.

    Raises:
        ValueError: if no layer is random, or no program of the module is running that would hold the draw.

    >>> import pyro_vae as pv
    >>> from pyro.nn import PyroModule, pyro_method
    >>> from pyro_vae import bayesian
    >>> class Net(PyroModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.network = bayesian.bayesian_(pv.MLP(4, 2, hidden=(8,)))
    ...     @pyro_method
    ...     def model(self):
    ...         return bayesian.sample_prior(self.network)
    >>> {name: weights.shape for name, weights in Net().model().items()}
    {'layers.0': torch.Size([8, 5]), 'layers.2': torch.Size([2, 9])}
    """
    return {name: layer.weights for name, layer in _layers_in_use("sample_prior", module)}


@checked
def sample_posterior(module: nn.Module, traced: bool = True) -> dict[str, Tensor]:
    """theta ~ q(theta) for every layer: a statement of the guide, before its plate over the data.

    Not ``traced``, the draws are noise of the program and no sites, in a model as well: nothing scores them.

    Raises:
        ValueError: as :func:`sample_prior`.
    """
    return {name: layer.sample_posterior(traced) for name, layer in _layers_in_use("sample_posterior", module)}


def _layers_in_use(statement: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers with random weights, in a program that holds one draw for all uses of a layer."""
    layers = dict(bayesian_layers(module))
    if not layers:
        raise ValueError(
            f"{statement}: no layer of this {type(module).__name__} has random weights. Make them so where the module "
            "is built: bayesian_(module)."
        )
    for name, layer in layers.items():
        if not is_running(layer):
            raise ValueError(
                f"{statement}: the weights of {name} would be drawn anew at each use, as no program of theirs is "
                "running. Write the pair as a PyroModule with the network as its attribute, decorate model and guide "
                "by pair_method, and where the network is inside of a module that is no PyroModule, make it random by "
                "its name in the pair: bayesian_(pair, networks=[name])."
            )
    return iter(layers.items())
