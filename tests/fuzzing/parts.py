"""Code of the distributions that pairs are composed of, with random numbers."""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor

from fuzzing.programs import Param

#: Kinds of latents, and how often; of the continuous ones the numbers.
KINDS = {"normal": 6, "normal2": 2, "mvn": 1, "bernoulli": 3, "categorical": 2, "unit": 1, "positive": 1}
CONTINUOUS = {"normal": 1, "normal2": 2, "mvn": 2, "unit": 1, "positive": 1}


class Latent:
    def __init__(self, name: str, kind: str, level: str) -> None:
        self.name, self.kind, self.level = name, kind, level
        self.before: list[Latent] = []
        self.padding = False
        self.top = ""

    def value(self, t: bool = False) -> str:
        """One number of it, in code."""
        return f"{self.name}.sum(-1)" if self.kind in ("normal2", "mvn") else self.name


class Parts:
    def __init__(self, seed: int, random_: random.Random, traits: list[str]) -> None:
        self.seed, self.random, self.traits = seed, random_, set(traits)
        self.p: list[Param] = []
        self.q: list[Param] = []
        self.data: dict[str, Tensor] = {}
        self.used: dict[str, Any] = {}
        self.sizeless: bool | None = None

    def has(self, trait: str) -> bool:
        return trait in self.traits

    def take(self, trait: str, how: Any = True) -> None:
        self.used[trait] = how

    # Numbers

    def number(self, low: float, high: float) -> float:
        return round(self.random.uniform(low, high), 2)

    def slope(self) -> float:
        return self.random.choice([-1, 1]) * self.number(0.3, 0.9)

    def trained(self, which: str, value: float) -> str:
        parameters = self.p if which == "p" else self.q
        parameters.append(Param(f"{which}{len(parameters)}", value))
        return parameters[-1].name

    def coefficient(self, which: str, value: float) -> str:
        return self.trained(which, value) if which == "q" or self.random.random() < 0.3 else str(value)

    def linear(self, which: str, parents: list[Latent], of_data: str | None = None, slope: float = 1.0) -> str:
        terms = [self.coefficient(which, self.number(-0.6, 0.6))]
        if of_data:
            terms.append(f"{self.coefficient(which, self.number(0.1, 0.6))} * {of_data}")
        terms += [f"{self.coefficient(which, round(slope * self.slope(), 2))} * {parent.value()}" for parent in parents]
        return " + ".join(terms)

    def stacked(self, *parts: str) -> str:
        """Numbers as an event, whatever their shapes."""
        return f"torch.stack(torch.broadcast_tensors({', '.join(f'torch.as_tensor({part})' for part in parts)}), -1)"

    # Distributions

    def prior(self, latent: Latent, parents: list[Latent]) -> str:
        match latent.kind:
            case "normal":
                return f"dist.Normal({self.linear('p', parents)}, {self.number(0.7, 1.2)})"
            case "normal2":
                if parents:
                    loc = self.stacked(self.linear("p", parents), self.linear("p", parents))
                else:
                    loc = f"torch.tensor([{self.number(-1, 1)}, {self.number(-1, 1)}])"
                return f"dist.Normal({loc}, {self.number(0.7, 1.2)}).to_event(1)"
            case "mvn":
                rho = self.number(-0.7, 0.7)
                return f"dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, {rho}], [{rho}, 1.0]]))"
            case "bernoulli":
                return f"dist.Bernoulli(logits=torch.as_tensor({self.linear('p', parents)}))"
            case "categorical":
                logits = [self.number(-1, 1) for _ in range(3)]
                if not parents:
                    return f"dist.Categorical(logits=torch.tensor({logits}))"
                moved = [self.number(-1, 1) for _ in range(3)]
                linear = self.linear("p", parents)
                return (
                    f"dist.Categorical(logits=({linear})[..., None] * torch.tensor({moved}) + torch.tensor({logits}))"
                )
            case "unit":
                if self.random.random() < 0.5:
                    return "dist.Uniform(torch.zeros(()), torch.ones(()))"
                return f"dist.Beta(torch.tensor({self.number(1.2, 3)}), torch.tensor({self.number(1.2, 3)}))"
            case "positive":
                return f"dist.Gamma(torch.tensor({self.number(1.5, 3)}), torch.tensor({self.number(1, 2)}))"
        raise AssertionError(latent.kind)

    def posterior(self, latent: Latent, parents: list[Latent], x: str) -> str:
        match latent.kind:
            case "normal":
                scale = self.trained("q", self.number(-0.7, 0.0))
                return f"dist.Normal({self.linear('q', parents, x)}, torch.exp({scale}))"
            case "normal2" | "mvn":
                loc = f"torch.stack([{self.linear('q', parents, x)}, {self.linear('q', parents, x)}], -1)"
                scale = self.trained("q", self.number(-0.7, 0.0))
                return f"dist.Normal({loc}, torch.exp({scale})[..., None]).to_event(1)"
            case "bernoulli":
                return f"dist.Bernoulli(logits={self.linear('q', parents, x)})"
            case "categorical":
                logits = ", ".join(self.linear("q", parents, x) for _ in range(3))
                return f"dist.Categorical(logits=torch.stack([{logits}], -1))"
            case "unit":
                a, b = (f"1.0 + torch.exp({self.linear('q', parents, x)})" for _ in range(2))
                return f"dist.Beta({a}, {b})"
            case "positive":
                scale = self.trained("q", self.number(-0.7, 0.0))
                return f"dist.LogNormal({self.linear('q', parents, x)}, torch.exp({scale}))"
        raise AssertionError(latent.kind)

    def moving(self, latent: Latent, x: str) -> str:
        """A uniform posterior, whose support moves with its parameters."""
        low, high = self.trained("q", self.number(-1, 1)), self.trained("q", self.number(-0.5, 0.7))
        if latent.kind == "normal":
            return f"dist.Uniform({low} + 0.3 * {x}, {low} + 0.3 * {x} + torch.exp({high}))"
        low, high = f"torch.sigmoid({low} - 2.0 + 0.0 * {x})", f"torch.sigmoid({high} + 1.0 + 0.0 * {x})"
        return f"dist.Uniform({low}, {high})"

    def likelihood(self, kind: str, parents: list[Latent], extra: str = "") -> str:
        linear = self.linear("p", parents) + extra
        match kind:
            case "normal":
                return f"dist.Normal({linear}, {self.number(0.6, 1.3)})"
            case "normal2":
                loc = self.stacked(linear, self.linear("p", parents) + extra)
                return f"dist.Normal({loc}, {self.number(0.6, 1.3)}).to_event(1)"
            case "bernoulli":
                return f"dist.Bernoulli(logits=torch.as_tensor({linear}))"
            case "poisson":
                return f"dist.Poisson(torch.exp(torch.as_tensor(0.5 * ({linear}))))"
        raise AssertionError(kind)
