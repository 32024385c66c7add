"""Sampling people in two stages: first a face of nobody in particular, then the identity on what is laid out.

The first steps see the empty identity: pose, light and layout come out as they do for anybody. Each picture goes over to
its identity, with guidance, when a map of the network stops changing, at the latest at time `late`:

    d_k = mean |m_k - m_(k-1)| / |clock(t_k) - clock(t_(k-1))|        m one of the three maps below; clock: log-SNR or t
    at t_k <= early, the first d_k below the threshold (`patience` of them in a row): identity from step k + 1 on, for good

so that the distance of two steps does not depend on how far apart they are. By the time t a map slows down from noise on;
by the log-SNR, which runs fast there, it may change as much until late. Every step evaluates the empty identity for
all pictures, and the identity only for those that have gone over, as further rows of the same pass; those rows may
borrow the attention of their empty row (`facegen.models.sharing`). Maps:

    attn_recv  attention that each token receives under the empty identity, mean over blocks, scaled to [0, 1]
    x0         the data that the empty identity's velocity implies, in 8 x 8 cells, in units of its spread
    gap        |v(identity) - v(empty)|^2 / |v(empty)|^2: how much the identity matters; it costs the second evaluation at
               every step

Attributes that are asked for hold in both stages and both conditions; guidance is towards the identity alone.
Shapes: x (B, C, H, W), attributes (B, A), identity (B, E), N tokens, S steps.

Source: Lin et al., UIFace (ICLR 2025). Its distance is that of two steps as they are, its second stage begins at a fixed
time without guidance before it, and both its passes run for all pictures at all steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.flow.path import coefficients, derivative, to_data
from facegen.models.sharing import Sharing, Tempering

Criterion = Literal["attn_recv", "x0", "gap"]
CRITERIA: tuple[str, ...] = get_args(Criterion)
Clock = Literal["log_snr", "time"]
LOG_SNR_TIMES = (0.01, 0.992)  # times are taken into this range first: at the ends the log-SNR is infinite
CELLS = 8  # a side, of the map x0
_ROUNDING = 1e-6

Network = Callable[..., tuple[Tensor, Tensor | None]]
"""(x_t (R, C, H, W), t (R,), attributes (R, A), identity (R, E), identity_known (R,) bool, sharing) -> v, received
(M, R, N) or None: a LatentDiT's `forward` with `return_dict` False."""


@dataclass(frozen=True)
class TwoStage:
    """Settings of the sampler. `one_stage` is plain guidance; a fixed switch is criterion None."""

    guidance_scale: float  # s, of the identity
    early: float  # nobody goes over before (at greater t)
    late: float  # everybody has gone over by then; 1: from the first step, 0: never
    criterion: Criterion | None
    threshold: float = 0.0
    patience: int = 1
    clock: Clock = "log_snr"  # by which distances are measured
    guide_early: bool = True  # guidance also before `late`
    share: float = 0.0  # of the empty row's attention logits in the identity's rows
    blocks: tuple[int, ...] = ()  # where it is borrowed
    window: tuple[float, float] = (0.0, 1.0)  # and at what times
    tempering: Tempering = "none"
    tempering_share: float = 0.0

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: for a setting that means nothing.
        """
        if self.criterion is not None and self.criterion not in CRITERIA:
            raise ValueError(f"criterion is {self.criterion!r}; allowed: {', '.join(CRITERIA)}, or none of them")
        for name, allowed in (("tempering", get_args(Tempering)), ("clock", get_args(Clock))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name in ("late", "early", "share", "tempering_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.criterion is not None and self.early < self.late:
            raise ValueError(
                f"early is {self.early} and late {self.late}: the criterion could let nobody over in between"
            )
        if self.share and not self.blocks:
            raise ValueError(f"share is {self.share} in no block; name blocks, or set it to 0")
        if self.patience < 1:
            raise ValueError(f"patience is {self.patience}; it must be at least 1")
        if not 0 <= self.window[0] <= self.window[1] <= 1:
            raise ValueError(f"window is {list(self.window)}; expected (low, high) with 0 <= low <= high <= 1")

    def one_stage(self) -> TwoStage:
        """Return plain guidance at the same scale."""
        return replace(self, late=1.0, criterion=None, share=0.0, tempering="none")


@dataclass(frozen=True)
class Drawn:
    """What the sampler made of each start."""

    latents: Tensor  # (B, C, H, W)
    switch: Tensor  # (B,) time of the first step with the identity; 0: never
    evaluations: Tensor  # (B,) int64, of the network
    distances: Tensor  # (S, B); NaN where there was none: at the first steps, and once a row has gone over


class Crossing:
    """Which rows have gone over to their identity, and when."""

    def __init__(self, num: int, *, device: torch.device | str) -> None:
        self.on = torch.zeros(num, dtype=torch.bool, device=device)
        self.switch = torch.zeros(num, device=device)  # time of the first step with the identity; 0: never
        self.hits = torch.zeros(num, dtype=torch.int64, device=device)  # distances below the threshold, in a row

    def begin(self, t: float, *, late: float) -> bool:
        """Begin the step at time t; return whether everybody must have gone over by now."""
        forced = t <= late + _ROUNDING
        if forced:
            self.on = torch.ones_like(self.on)
        self.switch = torch.where(self.on & (self.switch == 0), t, self.switch)
        return forced

    def look(self, t: float, distance: Tensor, *, threshold: float, early: float, patience: int) -> None:
        """Let those go over, from the next step on, whose distances (B,) have been small for long enough."""
        self.hits = torch.where(distance < threshold, self.hits + 1, 0)
        if t <= early + _ROUNDING:
            self.on = self.on | (self.hits >= patience)


def log_snr(t: float, *, path: str) -> float:
    """Return log(alpha^2 / sigma^2) at a time, within LOG_SNR_TIMES."""
    low, high = LOG_SNR_TIMES
    alpha, sigma = coefficients(torch.tensor(min(max(t, low), high), dtype=torch.float64), path=path)
    return 2 * math.log(float(alpha) / float(sigma))


@torch.no_grad()
def two_stage(
    network: Network,
    x: Tensor,
    schedule: Tensor,
    *,
    path: str,
    attributes: Tensor,
    identity: Tensor,
    settings: TwoStage,
    mapped: tuple[int, ...] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> Drawn:
    """Draw pictures by Euler steps along the schedule. A row's result does not depend on the other rows.

    Args:
        network: the velocity network.
        x: start noise.
        schedule: (S + 1,) times, falling to 0.
        path: the flow path.
        attributes: (B, A) states, the same in both stages.
        identity: (B, E) unit vectors.
        mapped: blocks whose received attention the map `attn_recv` is the mean of.
        on_step: called with (steps done, steps in all).

    Raises:
        ValueError: if the criterion is attn_recv and no block is mapped.
    """
    if settings.criterion == "attn_recv" and not mapped:
        raise ValueError("criterion attn_recv needs blocks whose attention it looks at; got none")
    times, B, device = schedule.tolist(), len(x), x.device
    crossing, distances = Crossing(B, device=device), []
    evaluations = torch.zeros(B, dtype=torch.int64, device=device)
    before: tuple[Tensor, float] | None = None  # the map of the step before, and its clock
    for step, (t, t_next) in enumerate(itertools.pairwise(times)):
        forced = crossing.begin(t, late=settings.late)
        on = crossing.on
        looking = settings.criterion is not None and not forced and not bool(on.all())
        asked = torch.ones_like(on) if looking and settings.criterion == "gap" else on
        rows = asked.nonzero()[:, 0]
        v_empty, v_identity, received = _evaluate(
            network, x, t, attributes, identity, rows, settings, mapped if looking else ()
        )
        evaluations = evaluations + 1 + asked
        v = v_empty
        if len(rows):
            scale = settings.guidance_scale if forced or settings.guide_early else 1.0
            guided = v_empty[rows] + scale * (v_identity - v_empty[rows])
            v = v_empty.index_copy(0, rows, torch.where(on[rows].view(-1, 1, 1, 1), guided, v_empty[rows]))
        distance = torch.full((B,), math.nan, device=device)
        if looking:
            map_now = _map(settings.criterion, x, t, v_empty, v_identity, received, path)
            here = t if settings.clock == "time" else log_snr(t, path=path)
            if before is not None and here != before[1]:
                moved = (map_now - before[0]).abs().mean(dim=1) / abs(here - before[1])
                distance = torch.where(on, math.nan, moved)  # none of those that are on, whoever else is in the batch
            crossing.look(t, distance, threshold=settings.threshold, early=settings.early, patience=settings.patience)
            before = map_now, here
        distances.append(distance)
        x = x + (t_next - t) * derivative(v, path=path)
        if on_step is not None:
            on_step(step + 1, len(times) - 1)
    return Drawn(x, crossing.switch, evaluations, torch.stack(distances))


def _evaluate(
    network: Network,
    x: Tensor,
    t: float,
    attributes: Tensor,
    identity: Tensor,
    rows: Tensor,
    settings: TwoStage,
    mapped: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return v(empty) (B, ...), v(identity) of `rows`, and what attention the empty rows receive: all in one pass.

    Whether attention is shared depends on the time alone, so that a row is computed in one way whoever is in its batch.
    """
    B, device = len(x), x.device
    all_rows = torch.cat([torch.arange(B, device=device), rows])  # and the row that each borrows from
    sharing = None
    inside = settings.window[0] - _ROUNDING <= t <= settings.window[1] + _ROUNDING
    share = settings.share if inside else 0.0
    if share or mapped or settings.tempering != "none":
        sharing = Sharing(
            source=all_rows, share=share, blocks=settings.blocks, mapped=mapped,
            tempering=settings.tempering, tempering_share=settings.tempering_share,
        )  # fmt: skip
    known = torch.arange(len(all_rows), device=device) >= B
    v, received = network(
        x[all_rows], torch.full((len(all_rows),), t, device=device, dtype=torch.float32), attributes[all_rows],
        identity[all_rows], known, sharing,
    )  # fmt: skip
    return v[:B], v[B:], None if received is None else received[:, :B]


def _map(
    criterion: Criterion | None,
    x: Tensor,
    t: float,
    v_empty: Tensor,
    v_identity: Tensor,
    received: Tensor | None,
    path: str,
) -> Tensor:
    """Return the map (B, values) that a criterion watches, float32."""
    if criterion == "attn_recv":
        if received is None:
            raise ValueError("the network told nothing of its attention")
        return _unit_range(received.mean(dim=0))
    if criterion == "x0":
        data = to_data(x, v_empty, torch.full((len(x),), t, device=x.device), path=path)
        cells = F.adaptive_avg_pool2d(data, min(CELLS, *data.shape[2:]))
        return (cells / data.std(dim=(1, 2, 3), keepdim=True)).flatten(1)
    gap = (v_identity - v_empty).square().sum(dim=(1, 2, 3)) / v_empty.square().sum(dim=(1, 2, 3))
    return gap[:, None]


def _unit_range(values: Tensor) -> Tensor:
    """Return each row scaled to reach from 0 to 1; a constant row becomes NaN, whose distances are below no threshold."""
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return (values - low) / (high - low)
