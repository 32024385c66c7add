"""The mapping network f_map: from who a face is (and how it looks) to two vectors in the text model's input.

    x = [identity; e],   e = known * expression + (1 - known) * null_exp
    first = MLP_first(x),   last = MLP_last(x)

Each MLP is two hidden layers (linear, dropout, leaky ReLU of slope 0.2) and a linear layer; the two share no weights.
`null_exp` is learnt: it stands where no expression is known. Weights bear the published names
(i2t_first.layers.0.0.weight, i2t_last.fc_out.bias, null_exp, ..), so a published file loads.
Source: Shiohara and Yamasaki, Face2Diffusion.
Shapes: S subjects, I identity features, E expression features, D width of the text model.
"""

from __future__ import annotations

import itertools
import pickle
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from facegen.errors import DamagedArtifactError
from facegen.models.initialize import draw_weights
from facegen.models.loading import first_line, load_checked

HIDDEN_LAYERS = 2
SLOPE = 0.2
PUBLISHED_DROPOUT = 0.1  # weights in a .pt file say nothing of it
NO_EXPRESSION, UNKNOWN_EXPRESSION = "none", "unknown"
START_GAIN = 0.01  # of the last layers' first weights, so that the outputs begin near their biases


class ExpressionEncoder(Protocol):
    """What tells the expression of faces, for instance the coefficients of a 3D face model."""

    @property
    def name(self) -> str:
        """What a mapper trained with it records as its `expression`."""
        ...

    def __call__(self, crops: Tensor) -> Tensor | None:
        """Return features (B, E) of aligned crops (B, 3, 112, 112) in [-1, 1]; None where it cannot tell."""
        ...


class TokenMlp(nn.Module):
    """One of the two networks: (S, I + E) -> (S, D)."""

    def __init__(self, in_dim: int, hidden_size: int, out_dim: int, dropout: float) -> None:
        super().__init__()
        widths = [in_dim] + [hidden_size] * HIDDEN_LAYERS
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(n_in, n_out), nn.Dropout(dropout), nn.LeakyReLU(SLOPE))
            for n_in, n_out in itertools.pairwise(widths)
        )
        self.fc_out = nn.Linear(hidden_size, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc_out(x)


class Mapper(ModelMixin, ConfigMixin):
    """The network of the module's docstring."""

    @register_to_config
    def __init__(
        self,
        identity_dim: int,
        expression_dim: int,
        hidden_size: int,
        out_dim: int,
        dropout: float,
        expression: str = NO_EXPRESSION,
    ) -> None:
        """
        Args:
            identity_dim, expression_dim: I and E, each at least 1.
            hidden_size: of both hidden layers.
            out_dim: D.
            dropout: share of hidden units left out in training, 0 <= dropout < 1.
            expression: the name of the expression encoder that it is trained with; "none" for null_exp alone.

        Raises:
            ValueError: for a size below 1 or a dropout out of range.
        """
        super().__init__()
        sizes = {"identity_dim": identity_dim, "expression_dim": expression_dim, "hidden_size": hidden_size}
        for name, size in {**sizes, "out_dim": out_dim}.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected 0 <= dropout < 1")
        self.i2t_first = TokenMlp(identity_dim + expression_dim, hidden_size, out_dim, dropout)
        self.i2t_last = TokenMlp(identity_dim + expression_dim, hidden_size, out_dim, dropout)
        self.null_exp = nn.Parameter(torch.zeros(expression_dim))

    def forward(self, identity: Tensor, expression: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Return the two vectors of each subject, (S, 2, D).

        Args:
            identity: (S, I), as the identity encoder gives it, not scaled to unit length.
            expression: (S, E), or None: nobody's is known.
            known: (S,) bool, whose expression counts; None: everybody's.

        Raises:
            ValueError: for another shape, or `known` without `expression`.
        """
        num, sizes = len(identity), self.config
        if identity.ndim != 2 or identity.shape[1] != sizes.identity_dim:
            raise ValueError(f"identity has shape {tuple(identity.shape)}; expected (S, {sizes.identity_dim})")
        null = self.null_exp.to(identity.dtype).expand(num, -1)
        if expression is None and known is not None:
            raise ValueError("it is said whose expression is known, but no expression is given")
        x = torch.cat([identity, null if expression is None else self._expression(expression, known, null)], dim=1)
        return torch.stack([self.i2t_first(x), self.i2t_last(x)], dim=1)

    def _expression(self, expression: Tensor, known: Tensor | None, null: Tensor) -> Tensor:
        if expression.shape != null.shape:
            raise ValueError(f"expression has shape {tuple(expression.shape)}; expected {tuple(null.shape)}")
        if self.config.expression == NO_EXPRESSION and (known is None or bool(known.any())):
            warnings.warn(
                "this mapper was trained without an expression encoder: the expression given has no meaning to it",
                stacklevel=3,
            )
        expression = expression.to(null.dtype)
        if known is None:
            return expression
        if known.shape != null.shape[:1]:
            raise ValueError(f"known has shape {tuple(known.shape)}; expected {tuple(null.shape[:1])}")
        return torch.where(known.bool()[:, None], expression, null)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator, start: Tensor) -> None:
        """Draw the first weights so that every subject begins near `start`: whoever it is, the class word.

        Args:
            generator: on the device of the module.
            start: (2, D) vectors in the text model's input; see `facegen.personalize.injection.class_start`.

        Raises:
            ValueError: for another shape.
        """
        if tuple(start.shape) != (2, self.config.out_dim):
            raise ValueError(f"start has shape {tuple(start.shape)}; expected (2, {self.config.out_dim})")
        draw_weights(self, generator)
        self.null_exp.zero_()
        for network, vector in zip((self.i2t_first, self.i2t_last), start, strict=True):
            network.fc_out.weight.mul_(START_GAIN)
            network.fc_out.bias.copy_(vector)

    def save(self, path: str | Path) -> None:
        """Write a diffusers folder, or, where the name ends in .pt, the bare weights under their published names."""
        if Path(path).suffix == ".pt":
            torch.save({k: v.detach().cpu().clone() for k, v in self.state_dict().items()}, path)
        else:
            self.save_pretrained(str(path), safe_serialization=True)


def load_mapper(source: str | Path) -> Mapper:
    """Return the mapper at `source`, on the CPU and in evaluation.

    Args:
        source: a diffusers folder, a hub id, or a .pt file of weights (nothing else in it is executed); the sizes of
            a .pt are those of its tensors, and its expression encoder counts as unknown.

    Raises:
        FileNotFoundError: if a .pt file is missing.
        DamagedArtifactError: if the weights do not load, do not fit, or are not finite.
    """
    if Path(source).suffix == ".pt":
        return _read_weights(Path(source)).eval()
    mapper: Mapper = load_checked(Mapper, source)
    return mapper.eval()


def _read_weights(path: Path) -> Mapper:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected the weights of a mapper")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise DamagedArtifactError(f"{path}: the weights do not load ({first_line(error)})") from error
    if not isinstance(held, dict) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise DamagedArtifactError(f"{path} holds {type(held).__name__}; expected a state dict, names to tensors")
    weights = {str(name).removeprefix("module."): tensor.float() for name, tensor in held.items()}
    mapper = Mapper(**_sizes(path, weights), dropout=PUBLISHED_DROPOUT, expression=UNKNOWN_EXPRESSION)
    try:
        mapper.load_state_dict(weights)
    except RuntimeError as error:
        said = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise DamagedArtifactError(f"{path} is not the weights of a mapper: {said[:300]}") from error
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise DamagedArtifactError(f"{path}: weight {name} holds NaN or infinity")
    return mapper


def _sizes(path: Path, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the sizes of the mapper that these weights are of."""
    names = {"i2t_first.layers.0.0.weight": 2, "i2t_first.fc_out.weight": 2, "null_exp": 1}
    for name, rank in names.items():
        if name not in weights or weights[name].ndim != rank:
            seen = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise DamagedArtifactError(f"{path} is not the weights of a mapper: {name} {seen}")
    hidden, entry = weights["i2t_first.layers.0.0.weight"].shape
    out_dim, expression_dim = len(weights["i2t_first.fc_out.weight"]), len(weights["null_exp"])
    if entry <= expression_dim:
        raise DamagedArtifactError(
            f"{path} is not the weights of a mapper: {entry} inputs, {expression_dim} of them expression"
        )
    return {
        "identity_dim": entry - expression_dim,
        "expression_dim": expression_dim,
        "hidden_size": hidden,
        "out_dim": out_dim,
    }
