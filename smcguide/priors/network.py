r"""Any pretrained network as a prior: one conversion from what it predicts to D = E[x_0 | x_t].

With x_t = alpha x_0 + sigma eps (guidance in the schedule's time, prime = d/dt):

    epsilon    D = (x - sigma e) / alpha
    sample     D = F
    v          D = (alpha x - sigma v) / (alpha^2 + sigma^2)             v = alpha eps - sigma x_0
    score      D = (x + sigma^2 s) / alpha
    velocity   D = (sigma' x - sigma u) / (alpha sigma' - alpha' sigma)   u = alpha' x_0 + sigma' eps
    edm        D = c_skip x + c_out F(c_in x, log(lam) / 4), x in units of alpha, data std `sigma_data`

References: Salimans, Ho (arXiv 2202.00512), v; Karras et al. (arXiv 2206.00364), edm; Lipman et al.
(arXiv 2210.02747), velocity.

Particles are float32 or float64 whatever the network computes in, and what it returns is copied: its
memory is its own (a CUDA graph overwrites it at the next call).
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from smcguide.errors import InvalidInput
from smcguide.priors.base import Prior, require_float
from smcguide.schedules import DDPMTable, Schedule

Prediction = Literal["epsilon", "sample", "v", "velocity", "score", "edm"]


class NetworkPrior(Prior):
    """A network and its schedule as a prior.

    Arguments:
        net: called as net(x, time) with x (M, *E) in the network's own dtype and time (M,);
            returns a tensor (or an object with `.sample`) of shape (M, *E). A module is put into
            evaluation mode and may be compiled. Twice the channels (learned variance) are cut to the
            first half.
        schedule: the schedule it was trained with.
        prediction: what it predicts, see the module docstring.
        event_shape: shape of one event.
        time_input: maps a time to what the network is conditioned on. Default: the time itself; time
            minus one for a `DDPMTable` (its entry number); log(lam) / 4 for "edm".
        clip: (low, high) clamp of D, part of the prior's definition, or None.
        sigma_data: data standard deviation of the "edm" preconditioning.
        dtype: dtype of the particles; the network may be in half precision.
        time_dtype: dtype of the time, default the network's own (in which 517 may be no number).

    Attributes:
        network_dtype: dtype that the network is given, its parameters'; None for the particles'.

    Raises:
        InvalidInput: for an unknown prediction or a half-precision particle dtype.
    """

    def __init__(
        self,
        net: nn.Module | Callable[[Tensor, Tensor], Any],
        schedule: Schedule,
        prediction: Prediction,
        event_shape: Sequence[int],
        *,
        time_input: Callable[[float], float] | None = None,
        clip: tuple[float, float] | None = None,
        sigma_data: float = 0.5,
        dtype: torch.dtype = torch.float32,
        time_dtype: torch.dtype | None = None,
    ) -> None:
        if prediction not in get_args(Prediction):
            raise InvalidInput(
                f"NetworkPrior: unknown prediction {prediction!r}; use one of {get_args(Prediction)}."
            )
        self.net, self.schedule, self.prediction = net, schedule, prediction
        self.event_shape = tuple(event_shape)
        self.dtype = require_float(dtype, "NetworkPrior")
        self.time_dtype = time_dtype
        self.time_input, self.clip, self.sigma_data = time_input, clip, sigma_data
        parameter = next(net.parameters(), None) if isinstance(net, nn.Module) else None
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self.network_dtype = None if parameter is None else parameter.dtype
        if isinstance(net, nn.Module):
            net.eval()

    def _conditioning(self, t: float, ratio: float) -> float:
        if self.time_input is not None:
            return self.time_input(t)
        if self.prediction == "edm":
            return math.log(ratio) / 4
        return t - 1 if isinstance(self.schedule, DDPMTable) else t

    def _call(self, x: Tensor, conditioning: float) -> Tensor:
        """The network's raw output (M, *E): the one cast around it, in memory of our own."""
        dtype = self.network_dtype or self.dtype
        time = torch.full((len(x),), conditioning, dtype=self.time_dtype or dtype, device=x.device)
        given = x.to(dtype, copy=x.requires_grad)
        if given.requires_grad:
            given.register_hook(torch.clone)  # the gradient is the network's memory, too
        out = self.net(given, time)
        out = getattr(out, "sample", out)
        if out.ndim > 1 and out.shape[1] == 2 * x.shape[1]:
            out = out[:, : x.shape[1]]
        if out.shape != x.shape:
            raise InvalidInput(
                f"The network maps {tuple(x.shape)} to {tuple(out.shape)}; a prior over events "
                f"{self.event_shape} needs an output of the shape of its input."
            )
        if out.dtype == torch.float16:  # an overflow; inf could pass for an impossible event
            out = out.masked_fill(out.isinf(), math.nan)
        return out.to(x.dtype, copy=True)

    def denoise(self, x: Tensor, t: float) -> Tensor:
        level = self.schedule.level(t)
        alpha, sigma = level.alpha, level.sigma
        if self.prediction == "edm":
            sd, lam = self.sigma_data, level.ratio
            norm = math.sqrt(lam**2 + sd**2)
            F = self._call(x / (alpha * norm), self._conditioning(t, lam))
            D = (sd / norm) ** 2 * x / alpha + lam * sd / norm * F
        else:
            out = self._call(x, self._conditioning(t, level.ratio))
            if self.prediction == "epsilon":
                D = (x - sigma * out) / alpha
            elif self.prediction == "sample":
                D = out
            elif self.prediction == "v":
                D = (alpha * x - sigma * out) / (alpha**2 + sigma**2)
            elif self.prediction == "score":
                D = (x + sigma**2 * out) / alpha
            else:
                d_alpha, d_sigma = self.schedule.rates(t)
                D = (d_sigma * x - sigma * out) / (alpha * d_sigma - d_alpha * sigma)
        return D if self.clip is None else D.clamp(*self.clip)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        network_dtype: torch.dtype | None = None,
    ) -> Self:
        """As `Prior.to`; with `network_dtype` a network that computes in it, bfloat16 for example.

        The network is copied, the original stays as it is. The time keeps the dtype it had: half
        precision has no 517.

        Raises:
            InvalidInput: for half-precision particles and for a network dtype that is no float.
        """
        moved = super().to(device, dtype)
        recast = network_dtype not in (None, self.network_dtype)
        if moved is self and recast:
            moved = copy.copy(self)
            moved.rehearsal = None
        if network_dtype is not None and recast:
            if not isinstance(network_dtype, torch.dtype) or not network_dtype.is_floating_point:
                raise InvalidInput(
                    f"NetworkPrior.to: network_dtype={network_dtype!r}; expected a floating dtype such "
                    "as torch.bfloat16."
                )
            moved.time_dtype = self.time_dtype or self.network_dtype or self.dtype
            moved.network_dtype = network_dtype
        if (recast or moved.device != self.device) and isinstance(self.net, nn.Module):
            moved.net = copy.deepcopy(self.net).to(moved.device, network_dtype)
        return moved

    def __repr__(self) -> str:
        net = type(self.net).__name__
        return (
            f"NetworkPrior({net}, {self.schedule}, {self.prediction!r}, event {self.event_shape})"
        )
