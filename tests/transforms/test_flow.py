"""The distribution of a flow: what it remembers, and steps of torch and Pyro in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms as pyro_transforms
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
    SigmoidTransform,
    StickBreakingTransform,
    TanhTransform,
    Transform,
    constraints,
    kl_divergence,
)

from pyro_vae.transforms import Bijection, NormalizingFlow, Planar, Radial, Step
from pyro_vae.transforms.base import Parameters
from pyro_vae.transforms.steps import Steps

LATENT, CONTEXT = 4, 3


def normal(*batch: int) -> dist.Distribution:
    return dist.Normal(torch.zeros(LATENT), 1.0).expand((*batch, LATENT)).to_event(1)


class Counted(Step):
    """y = scale z; counts its calls."""

    def __init__(self) -> None:
        super().__init__(LATENT)
        self.log_scale = nn.Parameter(torch.tensor(0.5))
        self.calls = [0, 0]

    def call_and_ladj(self, z: Tensor, theta: None) -> tuple[Tensor, Tensor]:
        self.calls[0] += 1
        return z * self.log_scale.exp(), (LATENT * self.log_scale).expand(z.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, theta: None) -> tuple[Tensor, Tensor]:
        self.calls[1] += 1
        return y * (-self.log_scale).exp(), (-LATENT * self.log_scale).expand(y.shape[:-1])


class Counting(Planar):
    calls = 0

    @staticmethod
    def constrained(*parts: Tensor) -> tuple[Tensor, ...]:
        Counting.calls += 1
        return Planar.constrained(*parts)


class Powered(Step):
    """Has a number that is no part of its ``numbers``."""

    def __init__(self, power: float) -> None:
        super().__init__(LATENT)
        self.power, self.numbers = power, Parameters([torch.ones(LATENT)], None)

    def constrained(self, *parts: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (self.power * parts[0],)

    def call_and_ladj(self, z: Tensor, theta: Any) -> tuple[Tensor, Tensor]:
        return z * theta[0].exp(), theta[0].sum(-1).expand(z.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, theta: Any) -> tuple[Tensor, Tensor]:
        return self.call_and_ladj(y, [-part for part in theta])


def test_steps_that_are_alike_are_as_each_by_itself() -> None:
    """What their numbers become is computed at once, and once; hooks and numbers of an object's own are heeded."""
    Counting.calls = 0
    steps = Steps([*(Counting(LATENT) for _ in range(3)), Radial(LATENT), Radial(LATENT), Powered(1.0), Powered(2.0)])
    steps.double()
    steps[1].requires_grad_(False)
    found = steps()
    assert Counting.calls == 1
    z, alone = torch.randn(4, LATENT, dtype=torch.float64), [step() for step in steps]
    values = [[step(z) for step in several] for several in (found, alone)]
    torch.testing.assert_close(*values, rtol=0, atol=0)
    trained = [p for p in steps.parameters() if p.requires_grad]
    torch.testing.assert_close(*(torch.autograd.grad(sum(value).square().sum(), trained) for value in values))
    seen: list[Any] = []
    steps[0].register_forward_hook(lambda *_: seen.append("step"))
    steps[2].numbers.register_forward_pre_hook(lambda *_: seen.append("numbers"))
    steps()
    assert sorted(seen) == ["numbers", "step"]


def test_a_draw_is_scored_as_it_was_made() -> None:
    step = Counted()
    q = NormalizingFlow(normal(5), [step()])
    z = q.rsample((2,))
    for _ in range(2):
        own = q.log_prob(z)
    assert step.calls == [1, 0]
    scale = step.log_scale.exp()
    torch.testing.assert_close(own, dist.Normal(0.0, scale).expand((LATENT,)).to_event(1).log_prob(z))
    # Of any other value the inverse is taken, also of an equal one, and the draw stays known.
    torch.testing.assert_close(q.log_prob(z.clone()), own)
    assert step.calls == [1, 1]
    q.log_prob(z)
    assert step.calls == [1, 1]
    q.rsample((2,))
    q.log_prob(z)
    assert step.calls == [2, 2]


def test_gradients_of_a_draw_are_those_of_a_value() -> None:
    step = Counted()

    def gradients(remembered: bool, grad: bool, leaf: bool) -> tuple[Tensor, ...]:
        q = NormalizingFlow(normal(5), [step()])
        torch.manual_seed(1)
        with torch.set_grad_enabled(grad):
            z = q.rsample()
        step.calls = [0, 0]
        z = z if remembered else z.clone()
        if leaf:
            z.requires_grad_()
        found = torch.autograd.grad(q.log_prob(z).sum(), [step.log_scale, *([z] if leaf else [])])
        assert step.calls == [0, int(not (remembered and grad))]
        return found

    for options in ((True, False), (False, True), (False, False)):
        for own, fresh in zip(gradients(True, *options), gradients(False, *options), strict=True):
            torch.testing.assert_close(own, fresh)
    # Where nothing has a gradient, a draw that becomes a leaf has one all the same.
    step.requires_grad_(False)
    q = NormalizingFlow(normal(5), [step()])
    z = q.rsample().requires_grad_()
    (gradient,) = torch.autograd.grad(q.log_prob(z).sum(), z)
    torch.testing.assert_close(gradient, -z.detach() * (-2 * step.log_scale).exp())


def test_a_draw_without_gradients_is_known_without_gradients() -> None:
    step = Counted()
    q = NormalizingFlow(normal(5), [step()])
    z = q.sample()
    assert not z.requires_grad
    with torch.no_grad():
        own = q.log_prob(z)
    assert step.calls == [1, 0]
    torch.testing.assert_close(q.log_prob(z), own)
    assert step.calls == [1, 1]


def test_flows_of_one_step_share_no_memory() -> None:
    step, planar = Counted(), pyro_transforms.Planar(LATENT)
    one, two = (NormalizingFlow(normal(5), Steps([step, planar])()) for _ in range(2))
    z, other = one.rsample(), two.rsample()
    step.calls = [0, 0]
    scores = one.log_prob(z), two.log_prob(other)
    assert step.calls == [0, 0]
    assert (scores[0] != scores[1]).all()
    with pytest.raises(NotImplementedError, match="Planar has no inverse, so the flow scores its last draw alone"):
        one.log_prob(other)


def test_expanded_flows() -> None:
    step = Counted()
    q = NormalizingFlow(normal(1), [step()])
    z = q.rsample()
    wide = q.expand((3, 1))
    assert isinstance(wide, NormalizingFlow)
    assert wide.batch_shape == (3, 1)
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z).expand(3, 1))
    assert step.calls == [1, 0]
    draws = wide.rsample()
    assert draws.shape == (3, 1, LATENT)
    assert (draws[0] != draws[1]).all()
    wide.log_prob(draws)
    q.log_prob(z)  # which drawing from the other has not overwritten
    assert step.calls == [2, 0]
    assert q.expand_by((2,)).to_event(1).log_prob(z.expand(2, 1, LATENT)).shape == (2,)
    assert q.mask(torch.tensor([False])).log_prob(z).abs().sum() == 0


def test_in_a_pyro_program() -> None:
    step = Counted()

    def program() -> Tensor:
        with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 5):
            return pyro.sample("z", NormalizingFlow(normal(), [step()]))

    trace: Any = pyro.poutine.trace(program).get_trace()
    trace.compute_score_parts()
    site = trace.nodes["z"]
    assert site["value"].shape == (3, 5, LATENT)
    assert site["log_prob"].shape == (3, 5)
    assert torch.equal(site["score_parts"].entropy_term, site["log_prob"])
    assert step.calls == [1, 0]
    again = pyro.poutine.trace(pyro.poutine.replay(program, trace)).get_trace()
    torch.testing.assert_close(again.log_prob_sum(), trace.log_prob_sum())
    assert step.calls == [1, 1]


SUPPORTS: dict[str, tuple[Any, Any]] = {
    "step": ([Planar(LATENT)()], constraints.real_vector),
    "exp": ([Planar(LATENT)(), ExpTransform()], constraints.positive),
    "sigmoid": ([SigmoidTransform()], constraints.unit_interval),
    "moved": ([ComposeTransform([SigmoidTransform(), AffineTransform(-1.0, 2.0)])], None),
    "inverse": (
        [ExpTransform(), Planar(LATENT)().inv, ExpTransform().inv, TanhTransform()],
        constraints.interval(-1, 1),
    ),
    "one": (ExpTransform(), constraints.positive),
}


@pytest.mark.parametrize("name", SUPPORTS)
def test_shapes_and_support(name: str) -> None:
    transforms, expected = SUPPORTS[name]
    q = NormalizingFlow(normal(5), transforms)
    reference = dist.TransformedDistribution(normal(5), transforms)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((5,), (LATENT,), True)
    z = q.rsample((2,))
    assert q.support.check(z).all()
    assert q.support.event_dim == reference.support.event_dim == 1
    assert expected is None or constraints.independent(expected, 1 - expected.event_dim).check(z).all()
    torch.testing.assert_close(q.log_prob(z.clone()), reference.log_prob(z))
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    with pytest.raises(ValueError, match="within the support"):
        q.log_prob(torch.full((5, LATENT), torch.nan))


def test_steps_that_change_the_event() -> None:
    # Of independent numbers: a base without event dimensions, and one whose steps have none or one.
    q = NormalizingFlow(dist.Normal(torch.zeros(5, LATENT), 1.0), [ExpTransform()])
    assert (q.batch_shape, q.event_shape) == ((5, LATENT), ())
    assert q.log_prob(q.rsample()).shape == (5, LATENT)
    for transforms in ([ExpTransform(), StickBreakingTransform()], [StickBreakingTransform()]):
        q = NormalizingFlow(dist.Normal(torch.zeros(5, LATENT), 1.0), transforms)
        assert (q.batch_shape, q.event_shape) == ((5,), (LATENT + 1,))
        z = q.rsample()
        reference = dist.TransformedDistribution(dist.Normal(torch.zeros(5, LATENT), 1.0), transforms)
        torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    matrices = NormalizingFlow(dist.Normal(torch.zeros(5, 2, LATENT), 1.0).to_event(2), [Radial(LATENT)()])
    assert matrices.event_shape == (2, LATENT)
    assert matrices.log_prob(matrices.rsample()).shape == (5,)


def test_a_base_without_reparameterization() -> None:
    mixture = dist.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)), torch.distributions.Normal(torch.tensor([-1.0, 1.0]), 1.0)
    )
    q = NormalizingFlow(mixture, [ExpTransform()])
    assert not q.has_rsample
    assert q.log_prob(q.sample((3,))).shape == (3,)


def test_the_kl_is_known_of_equal_transforms_alone() -> None:
    def q(loc: float, transforms: Any) -> dist.Distribution:
        return NormalizingFlow(dist.Normal(torch.full((LATENT,), loc), 1.0).to_event(1), transforms)

    kl = kl_divergence(q(1.0, Steps([ExpTransform()])()), q(0.0, Steps([ExpTransform()])()))
    torch.testing.assert_close(kl, torch.tensor(LATENT / 2))
    planar = Planar(LATENT)
    for transforms in ([SigmoidTransform()], [planar()]):
        with pytest.raises(NotImplementedError):
            kl_divergence(q(1.0, [planar()]), q(0.0, transforms))


def test_double_precision() -> None:
    steps = Steps(
        [Planar(LATENT), AffineTransform(torch.ones(LATENT), 2 * torch.ones(LATENT)), ExpTransform()]
    ).double()
    q = NormalizingFlow(dist.Normal(torch.zeros(LATENT, dtype=torch.float64), 1.0).to_event(1), steps())
    z = q.rsample((3,))
    assert z.dtype == q.log_prob(z).dtype == torch.float64


# Steps of torch and Pyro

FOREIGN: dict[str, Callable[[], Any]] = {
    "planar": lambda: pyro_transforms.Planar(LATENT),
    "radial": lambda: pyro_transforms.Radial(LATENT),
    "sylvester": lambda: pyro_transforms.Sylvester(LATENT),
    "autoregressive": lambda: pyro_transforms.affine_autoregressive(LATENT, [8]),
    "autoregressive, stable": lambda: pyro_transforms.affine_autoregressive(LATENT, [8], stable=True),
    "coupling": lambda: pyro_transforms.affine_coupling(LATENT, [8]),
    "spline": lambda: pyro_transforms.Spline(LATENT),
    "spline coupling": lambda: pyro_transforms.spline_coupling(LATENT),
    "batchnorm": lambda: pyro_transforms.BatchNorm(LATENT).eval(),
    "composed": lambda: pyro_transforms.ComposeTransformModule(
        [pyro_transforms.planar(LATENT), pyro_transforms.spline_coupling(LATENT)]
    ),
    "conditional planar": lambda: pyro_transforms.conditional_planar(LATENT, CONTEXT),
    "conditional autoregressive": lambda: pyro_transforms.conditional_affine_autoregressive(LATENT, CONTEXT, [8]),
    "conditional composed": lambda: dist.conditional.ConditionalComposeTransformModule(
        [pyro_transforms.conditional_planar(LATENT, CONTEXT), pyro_transforms.affine_coupling(LATENT, [8])]
    ),
}
ONE_WAY = {"planar", "radial", "composed", "conditional planar", "conditional composed", "sylvester"}


def jacobian(transform: Any, z: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(transform, z)


@pytest.mark.parametrize("name", FOREIGN)
def test_modules_of_pyro_are_steps(name: str) -> None:
    steps = Steps([FOREIGN[name]()])
    context = torch.randn(CONTEXT) if "conditional" in name else None
    assert steps.amortized == (context is not None)
    before = {id(module): dict(vars(module)) for module in steps.modules()}
    q: Any = NormalizingFlow(normal(), steps(context))
    torch.manual_seed(0)
    z = q.rsample()
    torch.manual_seed(0)
    base = q.base_dist.rsample()

    def carried(value: Tensor) -> Tensor:
        for transform in copy.deepcopy(steps)(context):
            value = transform(value)
        return value

    expected = q.base_dist.log_prob(base) - torch.linalg.slogdet(jacobian(carried, base))[1]
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    if name in ONE_WAY:
        with pytest.raises(NotImplementedError):
            q.log_prob(z.detach())
    else:
        torch.testing.assert_close(q.log_prob(z.detach()), expected, rtol=1e-4, atol=1e-4)
    (q.log_prob(z).sum() + z.sum()).backward()
    assert all(parameter.grad is not None for parameter in steps.parameters())
    # Nothing is left on the modules: a graph, for one, could not be copied.
    for module in steps.modules():
        after = {key: value for key, value in vars(module).items() if key != "_inv"}
        assert after.keys() == before[id(module)].keys() - {"_inv"}
        assert all(value is before[id(module)][key] for key, value in after.items())
    copy.deepcopy(steps)
    for parameter in steps.double().parameters():
        assert parameter.dtype == torch.float64


def test_a_module_used_before_is_taken_anew() -> None:
    step = pyro_transforms.Planar(LATENT)
    noise = torch.randn(5, LATENT)
    y = step(noise)  # which the module remembers
    with torch.no_grad():
        step.bias += 1.0
    q: Any = NormalizingFlow(dist.Delta(noise, event_dim=1), Steps([step])())
    q.base_dist.rsample = lambda sample_shape=(): noise
    assert (q.rsample() != y).any()
    assert step(noise) is y


def test_an_inverse_is_made_of_the_same_module() -> None:
    step = pyro_transforms.affine_autoregressive(LATENT, [8])
    prior = NormalizingFlow(normal(5), [transform.inv for transform in Steps([step])()])
    z = torch.randn(5, LATENT)
    base = step(z)
    expected = normal(5).log_prob(base) + step.log_abs_det_jacobian(z, base)
    step._cached_x_y = None, None
    torch.testing.assert_close(prior.log_prob(z), expected)
    draw = prior.sample()
    torch.testing.assert_close(prior.log_prob(draw), prior.log_prob(draw.clone()), rtol=1e-4, atol=1e-4)


PLAIN: dict[str, Callable[[], Any]] = {
    "exp": ExpTransform,
    "sigmoid": SigmoidTransform,
    "affine": lambda: AffineTransform(torch.ones(4), 2 * torch.ones(4)),
    "permute": lambda: pyro_transforms.permute(4),
    "inverse": lambda: AffineTransform(torch.ones(4), 2 * torch.ones(4)).inv,
    "composed": lambda: ComposeTransform([ExpTransform(), AffineTransform(0.0, torch.ones(4))]),
    "independent": lambda: IndependentTransform(TanhTransform(), 1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_transforms_are_steps(name: str) -> None:
    plain = PLAIN[name]()
    z = plain(torch.randn(5, 4, requires_grad=True))  # the graph of an earlier use is no obstacle
    steps = Steps([plain])
    assert all(transform is not plain for transform in steps())
    q, expected = NormalizingFlow(normal(), steps()), dist.TransformedDistribution(normal(), [plain])
    draw = q.rsample((5,))
    torch.testing.assert_close(q.log_prob(draw), expected.log_prob(draw), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z), rtol=1e-4, atol=1e-4)
    double = copy.deepcopy(steps).double()
    z = torch.randn(4, dtype=torch.float64)
    for transform in double():
        z = transform(z)
        for part in (transform, getattr(transform, "base_transform", transform), transform.inv):
            tensors = [value for value in vars(part).values() if isinstance(value, Tensor)]
            assert all(value.dtype in (torch.float64, torch.int64) for value in tensors)
    assert z.dtype == torch.float64
    assert not list(double.parameters())
    for transform in steps():  # the others are what they were
        tensors = [value for value in vars(transform).values() if isinstance(value, Tensor)]
        assert all(value.dtype in (torch.float32, torch.int64) for value in tensors)


def test_what_is_no_step() -> None:
    step: Any
    for step in (3, nn.Linear(2, 2), "exp"):
        with pytest.raises(TypeError, match=rf"a step of a flow is a.*Transform.*got {type(step).__name__}"):
            Steps([step])
    for step in (pyro_transforms.planar(2).inv, AffineTransform(nn.Parameter(torch.zeros(2)), 1.0)):
        with pytest.raises(TypeError, match=rf"no parameters.*got one in a {type(step).__name__}. Give the module"):
            Steps([step])
    with pytest.raises(ValueError, match="at least one step"):
        Steps([])


def test_amortized_steps_alone_are_given_the_context() -> None:
    context, z = torch.randn(5, CONTEXT), torch.randn(5, LATENT)
    shared, amortized = Planar(LATENT), Planar(LATENT, CONTEXT)
    for given in (None, context):
        torch.testing.assert_close(Steps([shared])(given)[0](z), shared()(z))
    torch.testing.assert_close(Steps([amortized])(context)[0](z), amortized(context)(z))
    with pytest.raises(ValueError, match="needs a context"):
        Steps([amortized])()
    conditional = pyro_transforms.conditional_planar(LATENT, CONTEXT)
    torch.testing.assert_close(Steps([conditional])(context)[0](z), conditional.condition(context)(z))
    with pytest.raises(ValueError, match=r"ConditionalPlanar.*needs a context"):
        Steps([conditional])()
    plain = pyro_transforms.Planar(LATENT)
    assert Steps([plain])(context)[0] is plain
    kinds: list[Transform] = Steps([shared, plain])()
    assert isinstance(kinds[0], Bijection)
    assert [key.split(".")[0] for key in Steps([shared, plain]).state_dict()] == ["0", "1", "1", "1"]
