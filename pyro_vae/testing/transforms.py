"""The laws of a step of a normalizing flow."""

from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_vae import MLP, VAE, Bernoulli, posteriors, priors
from pyro_vae.testing.comparing import seeded
from pyro_vae.testing.steps import assert_traced_step
from pyro_vae.transforms import NormalizingFlow, Step

LATENT, CONTEXT = 5, 3


class TransformLaws:
    """What holds for every :class:`~pyro_vae.transforms.Step`, with parameters of its own and with amortized ones.

    A subclass overrides :meth:`make`. The laws move the parameters away from where they start.

    Attributes:
        amortized: whether there is a step for a context; if so each law holds for it as well.
        learned: whether it has parameters.
        least_dim: the smallest latent that it takes, 1 or 2.
        network: whether a network is part of it, whose numbers are rounded under autocast.
        in_order: whether the inverse runs the network once for each dimension, so that roundings add up.
    """

    amortized: bool = True
    learned: bool = True
    least_dim: int = 1
    network: bool = False
    in_order: bool = False

    def make(self, latent_dim: int, context_dim: int | None = None) -> Step:
        """A new step (required) for these sizes; ``context_dim`` is ``None`` unless ``amortized``."""
        raise NotImplementedError

    # What the laws share

    @pytest.fixture(params=[None, CONTEXT], ids=["shared", "amortized"])
    def context_dim(self, request: Any) -> int | None:
        if request.param and not self.amortized:
            pytest.skip("it is not amortized")
        return request.param

    def _made(self, context_dim: int | None, latent_dim: int = LATENT, scale: float = 0.3) -> Step:
        """A step away from its start, in float64."""
        step = self.make(latent_dim, context_dim).double()
        with torch.no_grad():
            for parameter in step.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
        return step

    # The map

    @pytest.mark.parametrize("latent_dim", [1, 2, LATENT])
    def test_is_a_bijection(self, context_dim: int | None, latent_dim: int) -> None:
        """The inverse undoes the map and the map the inverse, in float64 and, in fewer digits, in float32."""
        if latent_dim < self.least_dim:
            pytest.skip(f"it takes latents from {self.least_dim} on")
        step, context = self._made(context_dim, latent_dim), context_of(context_dim, 1000)
        z, y = 2 * torch.randn(2, 1000, latent_dim, dtype=torch.float64)
        torch.testing.assert_close(step(context).inv(step(context)(z)), z, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(step(context)(step(context).inv(y)), y, atol=1e-9, rtol=1e-9)
        step, context = self._made(context_dim, latent_dim, 0.1).float(), None if context is None else context.float()
        there, back = step(context)(z.float()), step(context).inv(y.float())
        assert there.dtype == back.dtype == torch.float32
        torch.testing.assert_close(step(context)(back), y.float(), atol=5e-5, rtol=5e-5)
        torch.testing.assert_close(step(context).inv(there), z.float(), atol=1e-3, rtol=1e-3)

    def test_the_log_determinant_is_that_of_the_jacobian(self, context_dim: int | None) -> None:
        """By autograd, one datum after the other, for the map and for its inverse."""
        step, context = self._made(context_dim), context_of(context_dim)
        for z in torch.randn(4, LATENT, dtype=torch.float64):
            jacobian = torch.autograd.functional.jacobian(lambda z: step(context)(z), z)
            expected = torch.linalg.slogdet(jacobian)[1]
            transform = step(context)
            y, ladj = transform.call_and_ladj(z)
            torch.testing.assert_close(ladj, expected)
            torch.testing.assert_close(transform.log_abs_det_jacobian(z, y), expected)
            torch.testing.assert_close(transform.inverse_and_ladj(y)[1], -expected)
            torch.testing.assert_close(transform.inv.log_abs_det_jacobian(y, z), -expected)
            back = torch.autograd.functional.jacobian(lambda y: step(context).inv(y), y)
            torch.testing.assert_close(back @ jacobian, torch.eye(LATENT, dtype=torch.float64), atol=1e-8, rtol=0)

    def test_gradients_of_the_inverse(self, context_dim: int | None) -> None:
        """They are those of the implicit function, by the forward map alone, however the inverse is computed.

        At f(x; theta) = y it is dx/dtheta = -(df/dx)^-1 df/dtheta, and likewise for the log-determinant.
        """
        if not self.learned:
            pytest.skip("it has no parameters")
        step, context = self._made(context_dim), context_of(context_dim)
        inputs = [*step.parameters(), *([] if context is None else [context.requires_grad_()])]
        y, probe = torch.randn(2, LATENT, dtype=torch.float64)
        x, ladj = step(context).inverse_and_ladj(y)
        found = torch.autograd.grad((probe * x).sum() - ladj, inputs)
        root = x.detach().requires_grad_()
        jacobian = torch.autograd.functional.jacobian(lambda z: step(context)(z), root)
        forward, log_det = step(context).call_and_ladj(root)
        log_det = log_det + 0 * root.sum()
        (slope,) = torch.autograd.grad(log_det, root, retain_graph=True, allow_unused=True, materialize_grads=True)
        adjoint = -torch.linalg.solve(jacobian.T, probe + slope)
        expected = torch.autograd.grad((adjoint * forward).sum() + log_det, inputs)
        for gradient, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, reference, atol=1e-8, rtol=1e-6)

    @pytest.mark.parametrize("scale", [0.0, 0.3], ids=["start", "moved"])
    def test_gradients_reach_everything(self, context_dim: int | None, scale: float) -> None:
        """Every number of the parameters, where no mask hides it, and of the context, already at the start."""
        if not self.learned:
            pytest.skip("it has no parameters")
        step, context = self._made(context_dim, scale=scale), context_of(context_dim, 50)
        inputs: dict[str, Tensor] = dict(step.named_parameters())
        if context is not None:
            inputs["context"] = context.requires_grad_()
        y, ladj = step(context).call_and_ladj(torch.randn(50, LATENT, dtype=torch.float64))
        value = (torch.randn_like(y) * y).sum() + ladj.sum()
        masks = [module.mask for module in step.modules() if isinstance(getattr(module, "mask", None), Tensor)]
        for name, gradient in zip(inputs, torch.autograd.grad(value, list(inputs.values())), strict=True):
            assert gradient.isfinite().all(), name
            free = next((mask != 0 for mask in masks if mask.shape == gradient.shape), torch.ones_like(gradient) != 0)
            assert (gradient[free] != 0).double().mean() > 0.9, name

    # Shapes, types and copies

    @pytest.mark.parametrize("leading", [(), (4,), (2, 4), (3, 2, 4)])
    def test_leading_dimensions(self, context_dim: int | None, leading: tuple[int, ...]) -> None:
        """Each latent is mapped as it would be alone, with a context of its own or one for all particles."""
        step = self._made(context_dim)
        z = torch.randn(*leading, LATENT, dtype=torch.float64)
        for batch in {leading, leading[-1:]}:
            context = context_of(context_dim, *batch)
            y, ladj = step(context).call_and_ladj(z)
            assert (y.shape, ladj.shape) == (z.shape, leading)
            assert step(context).inv(y).shape == z.shape
            contexts = None if context is None else context.expand(*leading, -1).reshape(-1, CONTEXT)
            for i, row in enumerate(z.reshape(-1, LATENT)):
                alone = step(None if contexts is None else contexts[i])
                torch.testing.assert_close(y.reshape(-1, LATENT)[i], alone(row))
            assert NormalizingFlow(normal(*leading), [step(context)]).log_prob(y).shape == leading

    @pytest.mark.parametrize("leading", [(7, 1), ()])
    def test_fewer_latents_than_contexts(self, context_dim: int | None, leading: tuple[int, ...]) -> None:
        """A latent that is to meet four contexts is mapped by each."""
        step, context = self._made(context_dim), context_of(context_dim, 4)
        z = torch.randn(*leading, LATENT, dtype=torch.float64)
        whole = z.expand(*leading[:-1], 4, LATENT)
        for transform in (step(context), step(context).inv):
            y, ladj = transform.call_and_ladj(z)
            expected, full = transform.call_and_ladj(whole)
            torch.testing.assert_close(y.expand_as(expected), expected)
            torch.testing.assert_close(ladj.expand_as(full), full)
            assert ladj.shape == y.shape[:-1]
            assert y.shape == (z.shape if step.context_dim is None else expected.shape)

    def test_state_and_copies_give_the_same_map(self, context_dim: int | None) -> None:
        """To the bit; a used step can be copied."""
        step, other = self._made(context_dim), self._made(context_dim)
        context, z = context_of(context_dim, 4), torch.randn(4, LATENT, dtype=torch.float64)
        y = step(context)(z)
        other.load_state_dict(step.state_dict())
        assert torch.equal(other(context)(z), y)
        assert torch.equal(copy.deepcopy(step)(context)(z), y)
        assert f"latent_dim={LATENT}" in repr(step)

    def test_half_precision_leaves_float32(self, context_dim: int | None) -> None:
        """Under autocast what comes out is float32 and near; without a network the same to the bit."""
        step, context = self._made(context_dim).float(), context_of(context_dim, 50)
        context, z = None if context is None else context.float(), torch.randn(50, LATENT)
        full = [*step(context).call_and_ladj(z), *step(context).inverse_and_ladj(z)]
        with torch.autocast("cpu", torch.bfloat16):
            transform = step(context)
            low = [*transform.call_and_ladj(z), *transform.inverse_and_ladj(z)]
            again = transform.inv(low[0])
        for ours, theirs in zip(low, full, strict=True):
            assert ours.dtype == torch.float32
            if self.network or step.context_dim:
                assert (ours - theirs).abs().median() < 0.02
            else:
                assert torch.equal(ours, theirs)
        if not self.in_order:  # a bijection to float32's precision, whatever its parameters were rounded to
            assert (again - z).abs().median() < 1e-5

    def test_other_sizes_are_refused(self, context_dim: int | None) -> None:
        """Latents and contexts that the step was not built for are named, with what to do."""
        step, context = self._made(context_dim), context_of(context_dim, 4)
        with pytest.raises(ValueError, match=r"latents of shape \[\*, 5\]; got \[4, 6\].*latent_dim=6"):
            step(context)(torch.randn(4, 6, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"latents of shape \[\*, 5\]; got \[4, 4\]"):
            step(context).inv(torch.randn(4, 4, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"latents of shape \[\*, 5\]"):
            NormalizingFlow(normal(4, dim=6), [step(context)])
        if not self.learned:
            return  # it may ignore any context
        if context_dim is None:
            with pytest.raises(ValueError, match=r"parameters of its own.*context_dim=7"):
                step(torch.randn(4, 7))
        else:
            with pytest.raises(ValueError, match=r"needs a context of shape \[\*, B, 3\]; got none"):
                step()
            with pytest.raises(ValueError, match=r"context of shape \[\*, B, 3\]; got \[4, 7\]"):
                step(torch.randn(4, 7))

    # In a flow

    def test_a_draw_is_scored_as_any_value(self, context_dim: int | None) -> None:
        """Its own draw has the score of an equal value and the same gradients, also one drawn without a graph."""
        step, context = self._made(context_dim), context_of(context_dim, 20)
        inputs = list(step.parameters())

        def q() -> Any:
            return NormalizingFlow(normal(20), [step(context)])

        own = q()
        z = own.rsample((3,))
        fresh = q().log_prob(z.detach().clone())
        assert fresh.shape == (3, 20)
        torch.testing.assert_close(own.log_prob(z), fresh)
        with torch.no_grad():
            z = own.sample((3,))
            torch.testing.assert_close(own.log_prob(z), q().log_prob(z.clone()))

        def gradients(remembered: bool) -> tuple[Tensor, ...]:
            q_of = q()
            drawn = seeded(1, q_of.sample)
            value = (drawn if remembered else drawn.clone()).requires_grad_()
            score = q_of.log_prob(value).sum()
            return torch.autograd.grad(score, [value, *inputs], allow_unused=True, materialize_grads=True)

        for one, other in zip(gradients(True), gradients(False), strict=True):
            torch.testing.assert_close(one, other)

    def test_the_density_integrates_to_one(self, context_dim: int | None) -> None:
        """That of a standard normal carried through the step, on a grid."""
        step, context = self._made(context_dim, latent_dim=2), context_of(context_dim)
        line = torch.linspace(-10, 10, 301, dtype=torch.float64)
        with torch.no_grad():
            log_prob = NormalizingFlow(normal(dim=2), [step(context)]).log_prob(torch.cartesian_prod(line, line))
        assert (log_prob.exp().sum() * (line[1] - line[0]) ** 2).item() == pytest.approx(1, abs=0.01)

    def test_trains_in_a_posterior_and_a_prior(self) -> None:
        """A pair with flows of such steps learns as one graph what it learns eagerly.

        The posterior's draws go forwards, by an amortized step if there is one; the prior scores them by the inverse.
        """

        def make() -> VAE:
            step = self.make(2, 6 if self.amortized else None)
            q = posteriors.Flow(posteriors.DiagonalNormal(MLP(6, (2, 2), (4,))), [step])
            base = priors.LearnedNormal(2, (0.5, -0.3), (0.7, 1.2))
            return VAE(priors.Flow(base, [self.make(2)]), q, Bernoulli(MLP(2, 6, (4,))))

        assert_traced_step(make, torch.bernoulli(torch.full((5, 6), 0.4)))


def context_of(context_dim: int | None, *leading: int) -> Tensor | None:
    return None if context_dim is None else torch.randn(*leading, context_dim, dtype=torch.float64)


def normal(*batch: int, dim: int = LATENT) -> dist.Distribution:
    return dist.Normal(torch.zeros(dim, dtype=torch.float64), 1.0).expand((*batch, dim)).to_event(1)
