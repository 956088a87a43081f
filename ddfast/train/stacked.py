"""Several networks of one architecture as one module with a leading model dimension."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

ENGINES = ("grouped", "vmap")


class Stacked(nn.Module):
    """``models`` networks side by side: [models, n, c, h, w] to logits [models, n, classes].

    Each parameter and buffer is [models, ...]. Engine ``"grouped"`` runs them as one network of grouped convolutions,
    norms over all channels and batched linear layers, activations [n, models * c, h, w]; it takes networks of Conv2d,
    BatchNorm2d, GroupNorm, Linear and layers without weights that treat channels alike (ConvNet, the ResNets), and
    checks on a small batch that they come out as they do alone. ``rates`` are multiples of the learning rate, one a
    model (`ddfast.train.optimizers.make_optimizer`). Engine ``"vmap"`` takes what `torch.func.vmap` does
    (batch norm included: its running statistics are stacked as well).

    Raises:
        ValueError: no networks, networks that differ in more than weights, or one that "grouped" cannot run.
    """

    def __init__(self, models: Sequence[nn.Module], engine: str, *, channels_last: bool) -> None:
        super().__init__()
        if engine not in ENGINES:
            raise ValueError(f"engine: got {engine!r}, expected one of {', '.join(ENGINES)}")
        _alike(models)
        self.models, self.engine, self.channels_last = len(models), engine, channels_last
        self.rates: list[float] = [1.0] * len(models)
        self._names = {name: name.replace(".", "/") for name in models[0].state_dict()}
        for name, value in models[0].named_parameters():
            stacked = _stack([model.get_parameter(name).detach() for model in models])
            self.register_parameter(self._names[name], nn.Parameter(stacked, requires_grad=value.requires_grad))
        for name, _ in models[0].named_buffers():
            self.register_buffer(self._names[name], torch.stack([model.get_buffer(name) for model in models]))
        build = _grouped_template if engine == "grouped" else _bare_copy
        # in a list: the template's own weights are placeholders that must not count as parameters
        self._template = [build(models[0], self.models)]
        if engine == "grouped":
            self._check(models)

    @property
    def template(self) -> nn.Module:
        """The network whose layers run; its settings (such as the batch-norm momentum) hold for all models."""
        return self._template[0]

    def train(self, mode: bool = True) -> Stacked:
        """Of all models."""
        super().train(mode)
        self.template.train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits [models, n, classes] of [models, n, c, h, w]."""
        if self.engine == "vmap":
            state = {name: self.get_tensor(name) for name in self._names}
            call = vmap(lambda weights, each: functional_call(self.template, weights, (each,)), randomness="different")
            logits: Tensor = call(state, x)
            return logits
        state = {name: _joined(self.template, name, self.get_tensor(name)) for name in self._names}
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        side_by_side = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=layout)
        out: Tensor = functional_call(self.template, state, (side_by_side,))
        return out.view(out.shape[0], self.models, -1).transpose(0, 1)

    def get_tensor(self, name: str) -> Tensor:
        """Parameter or buffer [models, ...] by its name in one network."""
        value: Tensor = getattr(self, self._names[name])
        return value

    @torch.no_grad()
    def unstack(self, models: Sequence[nn.Module]) -> None:
        """Copy the weights and buffers back into the networks."""
        for place, model in enumerate(models):
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                value.copy_(self.get_tensor(name)[place])

    @torch.no_grad()
    def _check(self, models: Sequence[nn.Module]) -> None:
        first = next(module for module in models[0].modules() if isinstance(module, nn.Conv2d))
        device, training = first.weight.device, models[0].training
        self.eval()
        for side in (32, 64, 128, 28, 16, 8, 224):  # a ConvNet takes one size only, which its linear layer knows
            generator = torch.Generator().manual_seed(side)
            x = torch.randn(self.models, 2, first.in_channels, side, side, generator=generator).to(
                device, first.weight.dtype
            )
            try:
                alone = torch.stack([model.eval()(each) for model, each in zip(models, x, strict=True)])
            except RuntimeError:
                continue
            finally:
                for model in models:
                    model.train(training)
            together = self(x)
            self.train(training)
            if alone.shape == together.shape and torch.allclose(alone, together, rtol=1e-3, atol=1e-4):
                return
            break
        kind = type(models[0]).__name__
        raise ValueError(f"engine: 'grouped' does not run {kind} as it runs alone; use engine='vmap'")


class _BatchedLinear(nn.Module):
    """[n, models * in] to [n, models * out] with weights [models, out, in]."""

    def __init__(self, models: int, bias: bool) -> None:
        super().__init__()
        self.models = models
        self.weight = nn.Parameter(torch.empty(0))
        self.bias = nn.Parameter(torch.empty(0)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x.reshape(x.shape[0], self.models, -1).transpose(0, 1)
        out = torch.bmm(wide, self.weight.transpose(1, 2))
        if self.bias is not None:
            out = out + self.bias[:, None]
        return out.transpose(0, 1).flatten(1)


def _grouped_template(model: nn.Module, models: int) -> nn.Module:
    template = _bare_copy(model, models)
    for name, layer in list(template.named_modules()):
        if isinstance(layer, nn.Linear):
            path, _, last = name.rpartition(".")
            setattr(template.get_submodule(path), last, _BatchedLinear(models, layer.bias is not None))
        elif isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros":
                raise ValueError(f"engine: 'grouped' does not run padding {layer.padding_mode!r}; use engine='vmap'")
            layer.groups *= models
        elif isinstance(layer, nn.GroupNorm):
            layer.num_groups *= models
            layer.num_channels *= models
        elif not isinstance(layer, nn.BatchNorm2d) and any(True for _ in layer.parameters(recurse=False)):
            raise ValueError(f"engine: 'grouped' does not run {type(layer).__name__}; use engine='vmap'")
    return template


def _bare_copy(model: nn.Module, _models: int) -> nn.Module:
    """The structure of a network, without memory of its own."""
    return copy.deepcopy(model).to("meta")


def _joined(template: nn.Module, name: str, value: Tensor) -> Tensor:
    """[models, c, ...] as [models * c, ...], a view; linear layers and scalars keep the model dimension."""
    layer = template.get_submodule(name.rpartition(".")[0])
    return value if isinstance(layer, _BatchedLinear) or value.ndim < 2 else value.flatten(0, 1)


def _stack(values: list[Tensor]) -> Tensor:
    """New [models, ...]; filters keep a channels-last order, also as [models * out, in, h, w]."""
    if values[0].ndim == 4 and values[0].is_contiguous(memory_format=torch.channels_last):
        return torch.stack([value.permute(0, 2, 3, 1) for value in values]).permute(0, 1, 4, 2, 3)
    return torch.stack([value.contiguous() for value in values])


def _alike(models: Sequence[nn.Module]) -> None:
    if not models:
        raise ValueError("students: got none, expected at least one network")
    described: Callable[[nn.Module], Any] = lambda model: (  # noqa: E731
        type(model), str(model), [(name, value.shape) for name, value in model.state_dict().items()],
    )  # fmt: skip
    for place, model in enumerate(models[1:], start=1):
        if described(model) != described(models[0]):
            raise ValueError(f"students: network {place} is of another architecture than the first; train it apart")
