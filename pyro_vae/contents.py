"""What a module has: parameters, buffers and parts, looked up once for many steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Contents:
    """Parameters, buffers and modes of a module and its parts, without a walk over all of them at each use.

    Args:
        module: may change: what is registered, replaced or removed is seen at the next :meth:`look`.

    Attributes:
        parameters, buffers: by their dotted names, each tensor once.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._find()

    def _find(self) -> None:
        self.parameters: dict[str, nn.Parameter] = dict(self._module.named_parameters())
        self.buffers: dict[str, Tensor] = dict(self._module.named_buffers())
        self._parts = list(self._module.modules())
        held: list[Any] = [getattr(part, kind) for part in self._parts for kind in _KINDS]
        self._is_plain = all(isinstance(there, dict) for there in held)  # not so of a torch.jit.ScriptModule
        self._sizes = [(there, len(there)) for there in held]
        self._held = [(there.get, key, value) for there in held if self._is_plain for key, value in there.items()]

    def look(self) -> None:
        """Takes in what has changed."""
        if not self._is_plain:
            return self._find()
        for there, size in self._sizes:
            if len(there) != size:
                return self._find()
        for get, key, value in self._held:
            if get(key) is not value:
                return self._find()

    @property
    def modes(self) -> list[bool]:
        """Whether each of the parts is in training mode."""
        return [part.training for part in self._parts]


_KINDS = ("_parameters", "_buffers", "_modules")
