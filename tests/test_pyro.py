"""What the library leans on in Pyro beyond its interface: a test of each, named as it is in ``_pyro``."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, autoguide
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae import _pyro, bayesian


def sites(model: Any, *args: Any) -> Any:
    return poutine.trace(model).get_trace(*args).nodes


def test_particles() -> None:
    def model() -> None:
        with pyro.plate("data", 2):
            pyro.sample("x", dist.Normal(0.0, 1.0))

    ours = sites(_pyro.particles(3, 1)(model))
    elbo = Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True)
    theirs = next(elbo._get_traces(model, model, (), {}))[0].nodes
    for nodes in (ours, theirs):
        plates = {(frame.name, frame.dim, frame.size) for frame in nodes["x"]["cond_indep_stack"]}
        assert plates == {("data", -1, 2), (_pyro.PARTICLES, -2, 3)}


def test_unseen() -> None:
    seen: list[bool] = []

    class Look(poutine.messenger.Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            seen.append(_pyro.is_unseen(msg))

    def model() -> None:
        pyro.sample("hidden", dist.Normal(0.0, 1.0), infer=_pyro.UNSEEN)
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with Look():
        assert "hidden" not in sites(model)
    assert seen == [True, False]


def test_is_deterministic() -> None:
    def model() -> None:
        pyro.deterministic("sum", torch.ones(()))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.ones(()))

    nodes = sites(model)
    assert nodes["sum"]["is_observed"]
    assert [_pyro.is_deterministic(nodes[name]) for name in ("sum", "x")] == [True, False]


def test_enumeration_dim() -> None:
    def model() -> None:
        pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("z", dist.Normal(0.0, 1.0))

    nodes = sites(poutine.enum(model, first_available_dim=-3))
    assert [_pyro.enumeration_dim(nodes[name]["infer"]) for name in ("y", "z")] == [-3, None]
    assert nodes["y"]["value"].shape == (2, 1, 1)


def test_enumerated_after() -> None:
    """However often a model runs, its values lie on the left of the guide's, and have a number of their own."""

    def program(names: str) -> Any:
        return [pyro.sample(n, dist.Bernoulli(0.5), infer={"enumerate": "parallel"}) for n in names]

    with EnumMessenger(-2):
        program("ab")
    after = _pyro.EnumeratedAfter("ab")
    for _ in range(2):
        site: Any = poutine.trace(after(program)).get_trace("c").nodes["c"]
        assert (_pyro.enumeration_dim(site["infer"]), site["infer"]["_dim_to_id"][-4]) == (-4, 2)
    trace = poutine.trace(poutine.replay(after(program), poutine.trace(program).get_trace("a"))).get_trace("ac")
    assert trace.nodes["c"]["infer"]["_enumerate_dim"] == -4


def test_model_factors() -> None:
    def model() -> None:
        y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(y, 1.0), obs=torch.zeros(3))
            pyro.sample("u", dist.Normal(0.0, 1.0), obs=torch.ones(3))

    with EnumMessenger(-2):
        trace = prune_subsample_sites(poutine.trace(model).get_trace())
    trace.compute_log_prob()
    guide = poutine.Trace()
    guide.pack_tensors()
    trace.pack_tensors(guide.plate_to_symbol)
    nodes: Any = trace.nodes
    kept, factors, plates, dims, scale = _pyro.model_factors(trace, guide)
    (data,) = plates["x"]
    assert {at: len(values) for at, values in kept.items()} == {frozenset(data): 1}
    assert kept[frozenset(data)][0] is nodes["u"]["packed"]["log_prob"]
    assert {at: len(values) for at, values in factors.items()} == {frozenset(data): 1, frozenset(): 1}
    assert (dims, scale) == ({nodes["y"]["infer"]["_enumerate_symbol"]}, 1)


def test_is_subsample() -> None:
    def model() -> None:
        with pyro.plate("data", 10, subsample_size=3):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    nodes = sites(model)
    assert [_pyro.is_subsample(nodes[name]) for name in ("data", "z")] == [True, False]


def test_was_observed() -> None:
    x = torch.ones(())

    def model() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    nodes = sites(poutine.uncondition(model))
    assert not nodes["x"]["is_observed"]
    assert _pyro.was_observed(nodes["x"]) is x
    assert _pyro.was_observed(nodes["z"]) is None


def test_mismatch() -> None:
    def model() -> None:
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))

    with pytest.raises(ValueError, match="mismatch") as caught:
        poutine.trace(model).get_trace()
    assert _pyro.mismatch(str(caught.value)) == _pyro.Mismatch("data", "z", -1, 5, 2)
    assert _pyro.mismatch("another message") is None


def test_unpacked() -> None:
    def model() -> None:
        for t in pyro.markov(range(3)):
            s = pyro.sample(f"s_{t}", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(s, 1.0), obs=torch.zeros(()))  # after the loop

    with pytest.raises(ValueError, match="packing") as caught:
        TraceEnum_ELBO(max_plate_nesting=0).loss(model, lambda: None)
    assert _pyro.unpacked(str(caught.value)) == "x"
    assert _pyro.unpacked("another message") is None


def test_without_shapes() -> None:
    def model() -> None:
        pyro.sample("a_long_name", dist.Normal(0.0, 1.0))
        raise ValueError("what went wrong.")

    with pytest.raises(ValueError, match="went wrong") as caught:
        poutine.trace(model).get_trace()
    assert "a_long_name" in str(caught.value)
    assert _pyro.without_shapes(str(caught.value)) == "what went wrong."


def test_announced() -> None:
    network = nn.Sequential(nn.Linear(2, 3))
    nodes = poutine.trace(lambda: pyro.module("a.b", network)).get_trace().nodes
    found = {_pyro.announced(name) for name, site in nodes.items() if site["type"] == "param"}
    assert found == {("a.b", "0.weight"), ("a.b", "0.bias")}
    assert _pyro.announced("0.weight") == ("0.weight", "")  # of a PyroModule, by its full name


def test_remember_unconstrained() -> None:
    held, weight = torch.zeros(2, requires_grad=True), torch.ones(2)
    _pyro.remember_unconstrained(weight, held)
    assert pyro.param("other", torch.ones(2)).unconstrained() is not held  # what Pyro's optimizers ask each value for
    assert weight.unconstrained() is held  # type: ignore[attr-defined]


def test_a_remembered_parameter_can_be_pickled() -> None:
    weight = nn.Parameter(torch.ones(2))
    _pyro.remember_unconstrained(weight, weight)
    loaded = pickle.loads(pickle.dumps(weight))
    assert torch.equal(loaded, weight)
    _pyro.remember_unconstrained(loaded, loaded)
    assert loaded.unconstrained() is loaded


def test_empty_store() -> None:
    mine = pyro.param("mine", torch.ones(2)).unconstrained()  # type: ignore[attr-defined]
    with _pyro.empty_store():
        assert list(pyro.get_param_store().keys()) == []
        pyro.param("mine", torch.zeros(3))
        pyro.param("other", torch.zeros(3))
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine").unconstrained() is mine  # type: ignore[attr-defined]
    assert pyro.get_param_store().param_name(mine) == "mine"
    pyro.clear_param_store()


def test_handled() -> None:
    program, handler = nn.Linear(2, 3), poutine.scale(scale=2.0)
    assert _pyro.handled(handler(program)) == (handler, program)
    assert _pyro.handled(poutine.reparam(program, {}))[1] is program  # type: ignore[index]
    for other in (program, functools.partial(program), functools.partial(print, program, program)):
        assert _pyro.handled(other) is None


def test_share_context() -> None:
    outer, other = PyroModule[nn.Sequential](PyroModule[nn.Linear](2, 3), nn.Linear(2, 3)), PyroModule[nn.Linear](2, 3)
    assert _pyro.share_context(outer, outer[0])
    assert not _pyro.share_context(outer, outer[1])
    assert not _pyro.share_context(outer, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_guided_models(copied: Any) -> None:
    model = PyroModule[nn.Linear](2, 3)
    guides = autoguide.AutoGuideList(model)
    guides.append(autoguide.AutoDelta(model))
    forgetful = copied((model, guides))
    assert guides._model is None  # what this is for
    assert forgetful[1]._model is None
    guides = autoguide.AutoGuideList(model)
    guides.append(autoguide.AutoDelta(model))
    before = guides[0].model
    other, (of_list, of_part), _ = copied((model, (guides, guides[0]), _pyro.GuidedModels(guides)))
    assert guides.model is model
    assert guides[0].model is before
    assert guides[0].master() is guides
    assert of_list.model is other
    assert _pyro.handled(of_part.model)[1] is other  # type: ignore[index]
    assert of_part.master() is of_list


class Random(PyroModule):
    @PyroSample
    def weights(self) -> Any:
        return dist.Normal(torch.zeros(2), 1.0)

    def forward(self) -> Tensor:
        return self.weights


def test_running_full_name_and_hold() -> None:
    outer: Any = PyroModule()
    outer.inner = Random()
    assert not _pyro.is_running(outer.inner)
    with _pyro.running(outer):
        assert _pyro.is_running(outer.inner)
        assert _pyro.full_name(outer.inner) == "inner"
        assert _pyro.full_name(outer.inner, "weights") == "inner.weights"
        drawn = outer.inner.weights
        assert outer.inner.weights is drawn
        value = torch.ones(2)
        _pyro.hold(outer.inner, "weights", value)
        assert outer.inner() is value
    assert not _pyro.is_running(outer.inner)


def test_make_root() -> None:
    part, outer = Random(), PyroModule()
    part()  # by itself, so that Pyro refuses it as a part
    outer._modules["part"] = part
    _pyro.make_root(outer)
    with _pyro.running(outer):
        assert _pyro.full_name(part) == "part"


def test_traced() -> None:
    beside = torch.ones(3)
    graph = _pyro.traced(lambda x: [x.exp() + beside], [torch.zeros(3)])
    assert torch.equal(graph(torch.zeros(3))[0], torch.full((3,), 2.0))
    assert any("exp" in str(node.target) for node in graph.graph.nodes)


def test_traced_loops_over_plates() -> None:
    def looped(x: Tensor) -> Tensor:
        return torch.stack([x[i] * i for i in pyro.plate("data", len(x))]).sum()

    assert _pyro.traced(looped, [torch.ones(3)])(torch.ones(3)).item() == 3.0
    (indices,) = {type(i) for i in pyro.plate("data", 3)}
    assert indices is int


def test_picklable() -> None:
    program = poutine.block(poutine.scale(PyroModule("of no annotations of its own"), scale=2.0), hide=["x"])
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(program)
    _pyro.picklable(program)
    handler, inner = _pyro.handled(pickle.loads(pickle.dumps(program)))  # type: ignore[misc]
    assert isinstance(handler, poutine.block_messenger.BlockMessenger)
    assert isinstance(_pyro.handled(inner)[1], PyroModule)  # type: ignore[index]


def test_drop_handlers() -> None:
    tracer = poutine.trace()
    tracer.__enter__()  # and never left, as where a process is forked of another thread
    pyro.plate("data", 3).__enter__()
    _pyro.drop_handlers()
    with pyro.plate("others", 2), poutine.trace() as alone:
        pyro.sample("z", dist.Normal(0.0, 1.0))
    assert "z" not in tracer.trace.nodes
    assert alone.trace.nodes["z"]["cond_indep_stack"][0].dim == -1


def test_takes_anything() -> None:
    def made(**options: Any) -> list[Any]:
        bernoulli = dist.Bernoulli(torch.rand(1), **options)
        return [bernoulli, bernoulli.expand([3]), bernoulli.expand([3]).to_event(1).base_dist]

    for validated in (pyro.validation_enabled(True), _pyro.unvalidated()):
        with validated:
            assert not any(map(_pyro.takes_anything, made()))
            assert all(map(_pyro.takes_anything, made(validate_args=False)))
    with _pyro.unvalidated():
        dist.Bernoulli(torch.full((1,), 0.5)).log_prob(torch.full((1,), 0.3))
        assert not pyro.infer.util.is_validation_enabled()


def test_mask_of() -> None:
    mask = torch.tensor([True, False])
    for fn in (
        dist.Normal(0.0, torch.ones(2)).mask(mask),
        dist.Normal(0.0, torch.ones(3, 2)).mask(mask).expand([3, 2]),
    ):
        found = _pyro.mask_of(fn)
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, mask.expand(fn.batch_shape))
    assert _pyro.mask_of(dist.Normal(0.0, torch.ones(2)).mask(False)) is False


def test_validates() -> None:
    with pyro.validation_enabled(True):
        assert _pyro.validates()
    for off in (pyro.validation_enabled(False), _pyro.unvalidated()):
        with off:
            assert not _pyro.validates()


def test_options_of() -> None:
    def clipped(module: str, name: str) -> dict[str, Any]:
        return {"clip_norm": f"{module} {name}"}

    optim: Any = pyro.optim
    constructor, options, clip = _pyro.options_of(optim.Adam({"lr": 0.1}, clipped))
    assert (constructor, options) == (torch.optim.Adam, {"lr": 0.1})
    assert clip("net$$$a.bias") == {"clip_norm": "net a.bias"}
    assert _pyro.options_of(optim.SGD(lambda name: {"lr": name}))[1]("net$$$bias") == {"lr": "net.bias"}
    assert _pyro.options_of(optim.SGD(lambda module, name: {"lr": module + name}))[1]("loc") == {"lr": "locloc"}


def test_scheduler_of() -> None:
    of_torch = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    optim: Any = pyro.optim
    made = optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 1.0}, "gamma": 0.5})
    scheduler = _pyro.scheduler_of(made, of_torch)
    assert (type(scheduler), scheduler.gamma) == (torch.optim.lr_scheduler.ExponentialLR, 0.5)
    assert _pyro.scheduler_of(optim.Adam({}), of_torch) is None


def test_whole_or_new() -> None:
    def model() -> None:
        pyro.sample("z", dist.Bernoulli(0.5))

    for guide in (autoguide.AutoDelta(model), autoguide.AutoNormal(model)):
        for _ in range(2):
            with pytest.raises(ValueError, match="cannot handle discrete"), _pyro.whole_or_new(guide):
                guide()
        assert guide.prototype_trace is None


def test_backward_of() -> None:
    x = nn.Parameter(torch.ones(2))
    with _pyro.backward_of() as found:
        (2 * x).sum().backward()
        (3 * x).backward(gradient=torch.ones(2))
        assert x.sum().item() == 2.0
        with pytest.warns(UserWarning, match="NaN"):
            pyro.util.warn_if_nan(torch.tensor(torch.nan))
    assert x.grad is None
    torch.stack(found).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [5.0, 5.0]

    def graph(value: Tensor) -> Tensor:
        with _pyro.backward_of() as found:
            loss = value.sum()
            pyro.util.warn_if_nan(loss)
            loss.backward()
            return found[0] + loss.item()

    assert _pyro.traced(graph, [torch.ones(2)])(torch.ones(2)).item() == 4.0


def test_an_object_of_a_derived_class_with_a_random_attribute_is_pickled_behind_its_first_run() -> None:
    layer = bayesian.BayesianLinear(nn.Linear(2, 3), bayesian.IsotropicNormal, bayesian.MeanField)
    with layer._pyro_context:
        layer.weights  # noqa: B018 - is drawn
    assert pickle.loads(pickle.dumps(layer)).posterior.loc.shape == (3, 3)
