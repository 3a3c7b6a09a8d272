"""Priors from diffusers: a local folder, a pipeline, or a (model, scheduler) pair.

Only tables and settings are read from the scheduler (`scheduler.step` is stateful and serves one
timestep for the whole batch, so it is never called). Nothing is ever downloaded.

| scheduler                      | schedule        | read                         |
|--------------------------------|-----------------|------------------------------|
| anything with `alphas_cumprod` | `DDPMTable`     | prediction_type, clip_sample |
| FlowMatch...Scheduler          | `RectifiedFlow` | num_train_timesteps          |

Zero-terminal-SNR tables (rescale_betas_zero_snr) are floored at 2^-24 by `DDPMTable`; an epsilon
network cannot serve them and is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smcguide.errors import InvalidInput, MissingExtra
from smcguide.priors.network import NetworkPrior, Prediction
from smcguide.schedules import SMALLEST_ABAR, DDPMTable, RectifiedFlow

_PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
}


def from_diffusers(source: Any, *, dtype: torch.dtype = torch.float32) -> NetworkPrior:
    """A diffusers model as a prior.

    Arguments:
        source: a local folder written by `pipeline.save_pretrained`, a pipeline with `unet` and
            `scheduler`, or a pair (model, scheduler). The model is UNet2DModel-like: called as
            model(x, timesteps), with in_channels and sample_size in its configuration.
        dtype: dtype of the particles (float32 or float64); the network keeps its own.

    Raises:
        MissingExtra: when diffusers is needed and not installed.
        InvalidInput: for a folder that is not a saved pipeline, a scheduler of unknown type, a
            prediction type without meaning for it, dynamic thresholding.
    """
    model, scheduler = _parts(source)
    config = getattr(model, "config", None)
    size = getattr(config, "sample_size", None)
    if config is None or size is None or not hasattr(config, "in_channels"):
        raise InvalidInput(
            f"from_diffusers: {type(model).__name__} does not say its in_channels and sample_size. Wrap "
            "it yourself with NetworkPrior(net, schedule, prediction, event_shape)."
        )
    height, width = (size, size) if isinstance(size, int) else size
    event_shape = (config.in_channels, height, width)
    settings = scheduler.config
    name = type(scheduler).__name__
    if settings.get("thresholding", False):
        raise InvalidInput(
            f"{name}: dynamic thresholding depends on the whole image and is not supported; save the "
            "scheduler with thresholding=False."
        )
    clip = None
    if settings.get("clip_sample", False):
        bound = float(settings.get("clip_sample_range", 1.0))
        clip = (-bound, bound)
    if settings.get("invert_sigmas", False):
        raise InvalidInput(f"{name} with invert_sigmas=True runs the flow in the other direction.")
    if name.startswith("FlowMatch"):
        scale = float(settings["num_train_timesteps"])
        return NetworkPrior(
            model, RectifiedFlow(), "velocity", event_shape,
            time_input=lambda t: scale * t, clip=clip, dtype=dtype, time_dtype=torch.float32,
        )  # fmt: skip
    table = getattr(scheduler, "alphas_cumprod", None)
    prediction = _PREDICTIONS.get(settings.get("prediction_type", ""))
    if table is None or prediction is None:
        raise InvalidInput(
            f"Scheduler {name} with prediction_type={settings.get('prediction_type')!r} is of unknown "
            "type: smcguide reads schedulers with a table alphas_cumprod and prediction_type in "
            f"{tuple(_PREDICTIONS)}, and FlowMatch schedulers. Wrap the network yourself with "
            "NetworkPrior(net, schedule, prediction, event_shape)."
        )
    if prediction == "epsilon" and float(table[-1]) <= SMALLEST_ABAR:
        raise InvalidInput(
            f"{name} has zero terminal SNR, where an epsilon prediction says nothing about x_0; "
            "such a network must predict v or sample."
        )
    return NetworkPrior(
        model, DDPMTable(table), prediction, event_shape,
        clip=clip, dtype=dtype, time_dtype=torch.float32,
    )  # fmt: skip


def _parts(source: Any) -> tuple[Any, Any]:
    """Model and scheduler of a folder, a pipeline or a pair."""
    if isinstance(source, tuple):
        model, scheduler = source
        return model, scheduler
    if isinstance(source, str | Path):
        return _load(Path(source))
    if hasattr(source, "unet") and hasattr(source, "scheduler"):
        return source.unet, source.scheduler
    raise InvalidInput(
        f"from_diffusers: got {type(source).__name__}; expected a local folder, a pipeline with 'unet' "
        "and 'scheduler', or a pair (model, scheduler)."
    )


def _load(folder: Path) -> tuple[Any, Any]:
    index = folder / "model_index.json"
    if not index.is_file():
        raise InvalidInput(
            f"from_diffusers: {folder} has no model_index.json. Pass the folder that "
            "pipeline.save_pretrained(folder) wrote; hub names are not looked up."
        )
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra("diffusers", "diffusers", "Loading a diffusers folder") from error
    grad_mode = torch.is_grad_enabled()
    entries = json.loads(index.read_text())
    parts = []
    for part in ("unet", "scheduler"):
        library, name = entries.get(part, (None, None))
        kind = getattr(diffusers, name or "", None)
        if library != "diffusers" or kind is None:
            raise InvalidInput(
                f"from_diffusers: {index} names {name!r} of {library!r} as its {part}; expected a "
                "class of diffusers. Load it yourself and pass (model, scheduler)."
            )
        safe = {"use_safetensors": True, "low_cpu_mem_usage": False} if part == "unet" else {}
        try:
            parts.append(kind.from_pretrained(folder / part, local_files_only=True, **safe))
        except OSError as error:
            raise InvalidInput(
                f"from_diffusers: {folder / part} cannot be read: {error}. The weights must be a "
                "safetensors file, as save_pretrained writes it."
            ) from error
    torch.set_grad_enabled(grad_mode)  # some loaders leave gradients switched off
    return parts[0], parts[1]
