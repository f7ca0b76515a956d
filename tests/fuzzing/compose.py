"""Random recipes: a plain pair, and a few of the things that users do to one."""

from __future__ import annotations

import random
from typing import Any

import torch

from fuzzing.parts import CONTINUOUS, KINDS, Latent, Parts
from fuzzing.programs import Draw, Factor, Grid, Let, Loop, Mask, Noise, Plate, Sample, Scale
from fuzzing.recipes import Recipe, fitted, weights

# What users do, and how often; each is of the fuzz's own making, independent of the others.
TRAITS = {
    "scale a latent": 4,
    "scale the data": 2,
    "scale a datum": 4,
    "mask data": 3,
    "mask data by the distribution": 2,
    "mask padding": 2,
    "mask a latent": 3,
    "factor": 3,
    "factor in the guide": 2,
    "latent of the model alone": 4,
    "obs_mask": 2,
    "auxiliary latent": 3,
    "auxiliary latent with a reverse model": 2,
    "global latent": 3,
    "noise in the model": 2,
    "noise in the guide": 3,
    "point guide": 2,
    "autoguide": 2,
    "moving support": 3,
    "moving support of the model": 2,
    "subsample inside": 2,
    "size of all data": 2,
    "no size": 2,
    "another name": 3,
    "no data plate": 1,
    "impossible value": 2,
    "guide in another order": 2,
    "markov": 3,
    "sequential plate": 2,
    "inner plate": 4,
    "two data sites": 3,
    "float64": 1,
    "marked to be enumerated": 2,
    "deterministic": 1,
}


_MOST_STATES = 700_000


def compose(seed: int, traits: list[str] | None = None, *, fit: bool = True) -> Recipe:
    """The recipe of a seed.

    Args:
        seed: of all that is drawn.
        traits: in place of those that it draws.
        fit: whether the guide of most pairs is moved towards the posterior.
    """
    random_ = random.Random(seed)
    if traits is None:
        count = random_.choices([0, 1, 2, 3], [2, 5, 3, 1])[0]
        traits = []
        for _ in range(count):
            traits += [t for t in random_.choices(list(TRAITS), list(TRAITS.values())) if t not in traits]
    before = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        while True:
            state = random_.getstate()
            made = _Composer(seed, random_, traits).recipe()
            while traits and made.states() > _MOST_STATES:
                traits = traits[:-1]
                random_.setstate(state)
                made = _Composer(seed, random_, traits).recipe()
            if not fit or isinstance(made.guide, str) or "point guide" in made.features:
                return made
            with torch.no_grad():
                resolved = weights(made, Grid()).is_resolved
            if resolved:
                return fitted(made, random_.choice([8, 25])) if random_.random() < 0.8 else made
    finally:
        torch.random.set_rng_state(before)


class _Composer(Parts):
    """The programs of one pair."""

    def recipe(self) -> Recipe:
        choose = self.random.choices
        num = choose([1, 2, 3, 4], [1, 2, 4, 2])[0]
        inner = 2 if self.has("inner plate") else 1
        self.num, self.inner = num, inner
        budget = 2 - sum(self.has(t) for t in ("global latent", "noise in the model", "noise in the guide"))
        latents: list[Latent] = []
        if self.has("markov"):
            budget = min(budget, 1)
        if self.has("auxiliary latent") or self.has("auxiliary latent with a reverse model"):
            budget = min(budget, 1)
        budget = max(budget, 0)
        count = choose([1, 2, 3], [5, 4, 1])[0]
        if self.has("guide in another order"):
            count = max(count, 2)
        # Most pairs have no discrete latent, so that pathwise estimators and chains, which refuse one, are judged, too.
        smooth = self.random.random() < 0.7 and not any(map(self.has, ("marked to be enumerated", "impossible value")))
        if smooth and budget:
            count = min(count, budget)
        for index in range(count):
            kinds = {k: w for k, w in KINDS.items() if CONTINUOUS.get(k, 0) <= budget}
            if smooth and budget:
                kinds = {k: w for k, w in kinds.items() if 0 < CONTINUOUS.get(k, 0) <= budget - (count - index - 1)}
            if self.has("point guide") or self.has("autoguide") or self.has("moving support"):
                kinds = {k: w for k, w in kinds.items() if k in ("normal", "unit")}
                if not kinds and not latents:
                    kinds = {"normal": 1}
                if not kinds and self.has("autoguide"):
                    break  # Pyro's autoguides take no discrete latents
                kinds = kinds or {"bernoulli": 1, "categorical": 1}
            if self.has("noise in the guide") and index == 0 and budget:
                kinds = {"normal": 1}  # which the noise moves
            if self.has("marked to be enumerated") and not self.has("autoguide"):
                kinds = {k: w for k, w in KINDS.items() if k not in CONTINUOUS}
            kind = choose(list(kinds), list(kinds.values()))[0]
            budget -= CONTINUOUS.get(kind, 0)
            level = "inner" if inner > 1 and index == count - 1 and self.random.random() < 0.7 else "data"
            latents.append(Latent(f"z{index}" if count > 1 else "z", kind, level))
        self.latents, self.free = latents, budget
        return self.programs()

    def parents(self, latent: Latent) -> list[Latent]:
        """Earlier latents that a latent of the model depends on."""
        earlier = self.latents[: self.latents.index(latent)]
        return [p for p in earlier if self.random.random() < 0.7 and not p.padding] if latent.kind != "mvn" else []

    def programs(self) -> Recipe:
        num, inner, has, random_ = self.num, self.inner, self.has, self.random
        model: dict[str, list[Any]] = {"outside": [], "data": [], "inner": []}
        guide: dict[str, list[Any]] = {"outside": [], "data": [], "inner": []}
        levels = {latent.name: latent.level for latent in self.latents}

        # data
        loop = 2 if has("sequential plate") and inner == 1 else 0
        kind = random_.choices(["normal", "normal2", "bernoulli", "poisson"], [6, 2, 2, 1])[0]
        if kind == "normal2" and (inner > 1 or loop):
            kind = "normal"
        shape = {"normal2": (num, 2)}.get(kind, (num, inner) if inner > 1 else (num, loop) if loop else (num,))
        self.data["x"] = torch.zeros(shape, dtype=torch.float64)
        summary = "x" if len(shape) == 1 else "x.mean(-1)"
        if has("two data sites"):
            self.data["y"] = torch.zeros(num, dtype=torch.float64)
            self.take("two data sites")
        if any(
            has(t) for t in ("mask data", "mask data by the distribution", "mask padding", "mask a latent", "obs_mask")
        ):
            self.data["m"] = torch.tensor([random_.random() < 0.5 for _ in range(num)])
        weight = random_.choice(["number", "tensor"])
        if weight == "tensor" and any(has(t) for t in ("scale a latent", "scale the data", "scale a datum")):
            self.data["w"] = torch.tensor([self.number(0.2, 2.5) for _ in range(num)], dtype=torch.float64)
        scale = "w" if "w" in self.data else str(random_.choice([0.1, 0.5, 2.0, 3.0]))

        # latents of the model
        extra = ""
        if has("global latent"):
            self.take("global latent")
            model["outside"].append(Sample("g", f"dist.Normal({self.number(-0.5, 0.5)}, 1.0)"))
            q = f"dist.Normal({self.trained('q', self.number(-0.5, 0.5))}, torch.exp({self.trained('q', -0.5)}))"
            guide["outside"].append(Sample("g", q))
            extra += f" + {self.slope()} * g"
        if has("noise in the model"):
            shared = random_.random() < 0.5
            self.take("noise in the model", "shared by particles" if shared else "of each particle")
            first = next((latent for latent in self.latents if latent.level == "data"), None)
            shape_of = "len(x)" if shared or first is None else f"{first.value()}.shape"
            noise = Noise("eps", shape_of, hidden=shape_of == "len(x)" and random_.random() < 0.5)
            extra += f" + {self.slope()} * eps"
        else:
            noise = None
        if has("mask padding"):
            self.latents.append(
                padding := Latent(
                    "pad", random_.choice(["bernoulli", "normal"] if self.free else ["bernoulli"]), "data"
                )
            )
            padding.padding = True
        statements: dict[str, Any] = {}
        for latent in self.latents:
            parents = self.parents(latent) if not latent.padding else []
            latent.before = parents
            fn = self.prior(latent, parents)
            if (
                has("moving support of the model")
                and latent.kind == "normal"
                and "moving support of the model" not in self.used
            ):
                self.take("moving support of the model")
                terms = [f"{round(0.5 * self.slope(), 2)} * {parent.value()}" for parent in parents]
                latent.top = top = f"torch.exp(torch.as_tensor({' + '.join([str(self.number(0, 0.6)), *terms])}))"
                latent.kind = "bounded"
                fn = f"dist.Uniform(torch.zeros(()), torch.as_tensor({top}))"
            marked = has("marked to be enumerated") and latent.kind in ("bernoulli", "categorical")
            options = ""
            if marked:
                self.take("marked to be enumerated")
                options = random_.choice(
                    ["infer={'enumerate': 'parallel'}", "infer={'enumerate': 'parallel', 'num_samples': 4}"]
                )
            if (
                has("no size")
                and not has("size of all data")
                and not has("subsample inside")
                and latent.kind != "bounded"
            ):
                if self.sizeless is None:
                    self.sizeless = random_.random() < 0.85
                if self.sizeless and not any(parent.name in fn for parent in parents):
                    fn += ".expand([len(x)])" if latent.level == "data" else ".expand([2, len(x)])"
            statements[latent.name] = Sample(latent.name, fn, extra=options)
        if has("impossible value"):
            for latent in self.latents:
                if latent.kind == "categorical" and not latent.padding:
                    self.take("impossible value")
                    impossible = "dist.Categorical(logits=torch.tensor([-0.9, -0.5, float('-inf')]))"
                    statements[latent.name] = Sample(latent.name, impossible)
                    break
        chain: list[Any] = []
        depended = [latent for latent in self.latents if not latent.padding]
        outer = [latent for latent in depended if latent.level == "data"]
        if has("markov"):
            length = random_.choice([2, 3, 4])
            over = random_.choice([f"pyro.markov(range({length}))", f"range({length})"])
            self.take("markov", over)
            table = torch.rand(2, 2).add(0.2).div(1.4)
            table = [[round(v, 2), round(1 - v, 2)] for v in table[:, 0].tolist()]
            fn = f"dist.Categorical(torch.tensor({table})[s.long()])"
            emission = [Sample("o_{t}", f"dist.Normal({self.slope()} * s, 0.9)", obs="o[:, t]")]
            if random_.random() < 0.6:
                self.data["o"] = torch.zeros(num, length, dtype=torch.float64)
            steps = [Sample("s_{t}", fn), *(emission if "o" in self.data else [])]
            chain = [Let("s", "torch.zeros(len(x)).long()"), Loop(over, length, steps)]
            extra += f" + {self.slope()} * s"
        for latent in self.latents:
            model[latent.level].append(statements[latent.name])
        if noise is not None:
            model["data"].append(noise)
        model["data"] += chain
        if has("deterministic") and outer:
            self.take("deterministic")
            model["data"].append(Let("h", f"{outer[0].value()} * 2.0", True))

        # data sites of the model
        obs: list[Any] = []
        level = "inner" if inner > 1 else "data"
        parents = depended if inner > 1 else outer
        fn = self.likelihood(kind, parents, extra)
        masked = "m" if has("mask data by the distribution") else None
        obs_mask = "m" if has("obs_mask") and kind != "normal2" and inner == 1 and not loop else None
        if obs_mask:
            self.take("obs_mask")
        if masked:
            self.take("mask data by the distribution")
        if loop:
            self.take("sequential plate")
            obs = [Loop("pyro.plate('steps', 2)", 2, [Sample("x_{t}", fn, obs="x[:, t]", masked=masked)])]
        else:
            obs = [Sample("x", fn, obs="x.T" if inner > 1 else "x", masked=masked, obs_mask=obs_mask)]
        if has("mask data"):
            self.take("mask data")
            obs = [Mask("m", obs)]
        if has("scale the data"):
            self.take("scale the data", scale)
            obs = [Scale(scale, obs)]
        model[level] += obs
        if inner > 1:
            self.take("inner plate")
        if "y" in self.data:
            model["data"].append(Sample("y", self.likelihood("normal", outer, extra), obs="y"))
        if has("factor") and depended:
            self.take("factor")
            latent = random_.choice(depended)
            value = latent.value()
            expression = random_.choice([f"-0.3 * {value} ** 2 + 0.4 * {value}", f"torch.sigmoid({value} + 0.5)"])
            model[latent.level].append(Factor("f", expression))

        self.guide_statements(guide, levels, summary, extra, chain)
        self.handlers(model, guide, scale)
        return self.assembled(model, guide, kind)

    def guide_statements(self, guide: Any, levels: Any, summary: str, extra: str, chain: list[Any]) -> None:
        has, random_ = self.has, self.random
        alone: set[str] = set()
        if has("latent of the model alone"):
            options = [latent for latent in self.latents if not latent.padding]
            alone = {random_.choice(options).name}
            self.take("latent of the model alone")
        shared = [latent for latent in self.latents if latent.name not in alone]
        order = list(shared)
        if has("guide in another order") and len([s for s in shared if s.level == "data"]) > 1:
            order = [s for s in reversed(shared) if s.level == "data"] + [s for s in shared if s.level != "data"]
            self.take("guide in another order")
        drawn: list[Latent] = []
        if has("noise in the guide"):
            how = random_.choice(["shared", "hidden"])
            self.take("noise in the guide", how)
            guide["data"].append(Noise("nu", "len(x)", hidden=how == "hidden"))
        aux = has("auxiliary latent") or has("auxiliary latent with a reverse model")
        if aux:
            a = Latent("a", random_.choice(["bernoulli", "categorical", "normal"]), "data")
            options = "infer={'is_auxiliary': True}" if random_.random() < 0.7 else ""
            guide["data"].append(Sample("a", self.posterior(a, [], summary), extra=options))
            if random_.random() < 0.7:
                drawn.append(a)
            self.aux: Latent | None = a
        else:
            self.aux = None
        for latent in order:
            x = "x.T" if latent.level == "inner" else summary
            parents = [p for p in drawn if random_.random() < 0.6 and not p.padding] if not latent.padding else []
            if aux and self.aux in drawn and self.aux not in parents and latent.level == "data" and not latent.padding:
                parents = [self.aux, *parents]  # type: ignore[list-item]
            if latent.kind == "bounded":
                known = all(parent in drawn for parent in latent.before)
                fn = f"dist.Uniform(torch.zeros(()), torch.as_tensor({latent.top if known else '0.7'}))"
            elif has("moving support") and latent.kind in ("normal", "unit") and "moving support" not in self.used:
                fn = self.moving(latent, x)
                self.take("moving support")
            elif has("point guide") and latent.kind in ("normal", "unit") and "point guide" not in self.used:
                self.take("point guide")
                loc = self.linear("q", parents, x)
                fn = f"dist.Delta({loc})" if latent.kind == "normal" else f"dist.Delta(torch.sigmoid({loc}))"
            else:
                fn = self.posterior(latent, parents, x)
                if "noise in the guide" in self.used and latent.kind == "normal" and latent.level == "data":
                    fn = fn.replace("dist.Normal(", "dist.Normal(0.6 * nu + ", 1)
            guide[latent.level].append(Sample(latent.name, fn))
            drawn.append(latent)
        if chain:
            loop = chain[1]
            first, second = self.linear("q", [], summary), self.linear("q", [], summary)
            fn = f"dist.Categorical(logits=torch.stack([{first} + 0.0 * s, {second} + 0.5 * s], -1))"
            guide["data"] += [
                Let("s", "torch.zeros(len(x)).long()"),
                Loop(loop.over, loop.length, [Sample("s_{t}", fn)]),
            ]
        if has("factor in the guide"):
            self.take("factor in the guide")
            extra_ = random_.choice(["has_rsample=False", "has_rsample=True"])
            guide["data"].append(Factor("gf", f"{self.number(0.5, 2)} * torch.ones(len(x))", extra_))

    def handlers(self, model: Any, guide: Any, scale: str) -> None:
        """Scales and masks around sites of both programs, or of one."""
        has, random_ = self.has, self.random

        def around(name: str, wrap: Any, where: str) -> None:
            for which, program in (("model", model), ("guide", guide)):
                if where in ("both", which):
                    for level in program:
                        program[level] = [
                            wrap([s]) if isinstance(s, Sample) and s.name == name and s.obs is None else s
                            for s in program[level]
                        ]

        names = [latent for latent in self.latents if not latent.padding]
        if has("scale a latent"):
            where = random_.choice(["both", "both", "model", "guide"])
            latent = random_.choice(names)
            self.take("scale a latent", (where, scale))
            around(latent.name, lambda body: Scale(scale, body), where)
        if has("mask padding"):
            self.take("mask padding")
            around("pad", lambda body: Mask("m", body), "both")
        if has("mask a latent"):
            where = random_.choice(["both", "both", "model"])
            latent = random_.choice(names)
            self.take("mask a latent", where)
            around(latent.name, lambda body: Mask("m", body), where)
        if self.aux is not None:
            self.take("auxiliary latent")
            if has("auxiliary latent with a reverse model"):
                self.take("auxiliary latent with a reverse model")
                del self.used["auxiliary latent"]
                outer = [latent for latent in names if latent.level == "data"]
                fn = self.prior(self.aux, outer if self.aux.kind != "mvn" else [])
                model["data"].append(Sample("a", fn))

    def assembled(self, model: Any, guide: Any, kind: str) -> Recipe:
        has, random_ = self.has, self.random
        name: str | None = "data"
        if has("another name"):
            name = random_.choice(["batch", "images", "N"])
            self.take("another name")
        size: str | None = "len(x)"
        options, index = "", None
        before: list[Any] = []
        if has("subsample inside") and not has("no data plate"):
            self.take("subsample inside")
            options, index = "subsample_size=max(1, len(x) // 2)", "i"
            before = [Let(argument, f"{argument}[i]") for argument in self.data]
        elif has("size of all data") and not has("global latent"):  # which counts 1/N of these
            self.take("size of all data")
            size, options = "4 * len(x)", "subsample_size=len(x)"
        elif has("no size"):
            self.take("no size")
            if not self.sizeless:
                self.take("one latent for all data")
            size = None
        scale = "w" if "w" in self.data else str(random_.choice([0.1, 0.5, 2.0, 3.0]))
        where = random_.choice(["both", "both", "both", "model"])
        bodies = []
        for which, program, params in (("model", model, self.p), ("guide", guide, self.q)):
            body = [*before, *program["data"]]
            if program["inner"]:
                place = len(body)
                body.insert(place, Plate("inner", "inner", "2", program["inner"]))
            if has("scale a datum") and where in ("both", which):
                self.take("scale a datum", (where, scale))
                body = [*before, Scale(scale, body[len(before) :])]
            if has("no data plate"):
                self.take("no data plate")
                name = None
            plate = [Plate(name, "data", size, body or [Let("_", "0")], index, options)]
            bodies.append([*params, *program["outside"], *plate])
        # Of a model without a plate a draw is one for all data, and has fewer dimensions than the guide's.
        narrow = self.seed % 3 == 1 and not {"markov", "no data plate", "one latent for all data"} & set(self.used)
        recipe = Recipe(self.seed, bodies[0], bodies[1], self.data, self.used, self.inner, has("float64"), narrow)
        if has("float64"):
            self.take("float64")
        recipe.interpreter(Draw(1), simulating=True).run(recipe.model)
        for key, value in self.data.items():
            if value.is_floating_point():
                self.data[key] = value.float().mul(1000).round().div(1000).double()
        # Pyro's guides are of continuous latents, which a chain's states are not, and of plates that tell their size.
        others = {"markov", "no size", "point guide", "mask padding", "auxiliary latent with a reverse model"}
        if has("autoguide") and not (others & set(self.used) or has("markov") or has("no size")):
            self.take("autoguide")
            recipe.guide = random_.choice(
                ["autoguide.AutoDelta(model)", "autoguide.AutoNormal(model)", "autoguide.AutoDiagonalNormal(model)",
                 "autoguide.AutoMultivariateNormal(model)"]
            )  # fmt: skip
            return recipe
        return recipe
