"""Priors from real diffusers folders: saved, loaded offline, and compared with model and tables."""

import copy
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

import smcguide as sg
from smcguide.costs import LinearGaussian
from smcguide.priors import NetworkPrior, check_prior, from_diffusers
from smcguide.schedules import DDPMTable, RectifiedFlow

T = 50  # entries of the tables
EVENT = (1, 4, 4)


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No test here may look beyond this machine, not even in a thread that swallows the error."""
    made: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        made.append(arguments)
        raise OSError("sockets are blocked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield made
    assert made == []


def unet(out_channels: int = 1, in_channels: int = 1) -> UNet2DModel:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=4, in_channels=in_channels, out_channels=out_channels, layers_per_block=1,
        block_out_channels=(8,), norm_num_groups=4, add_attention=False,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), dropout=0.5,
    )  # fmt: skip
    torch.set_rng_state(state)
    return net


def ddpm(**settings: Any) -> DDPMScheduler:
    return DDPMScheduler(**{"num_train_timesteps": T, "clip_sample": False} | settings)


def saved(folder: Path, net: UNet2DModel, scheduler: Any) -> Path:
    DDPMPipeline(net, scheduler).save_pretrained(folder)
    return folder


def states(num: int = 3, channels: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(num, channels, 4, 4, generator=source, dtype=torch.float64).to(dtype)


@torch.no_grad()
def output(net: UNet2DModel, x: Tensor, timestep: float) -> Tensor:
    """What the network says in evaluation mode, told the timestep as a plain number."""
    net = copy.deepcopy(net).eval()
    return net(x.to(net.dtype), timestep).sample.to(x.dtype)


def by_hand(net: UNet2DModel, scheduler: Any, x: Tensor, entry: int) -> Tensor:
    """E[x_0 | x_t] at an entry of the table, from the definitions of the three predictions."""
    abar = float(scheduler.alphas_cumprod[entry])
    a, s, F = abar**0.5, (1 - abar) ** 0.5, output(net, x, entry)
    kind = scheduler.config.prediction_type
    return {"epsilon": (x - s * F) / a, "v_prediction": a * x - s * F, "sample": F}[kind]


def close(prior: NetworkPrior, entry: int, expected: Tensor, **tolerance: float) -> None:
    got = prior.denoise(states(len(expected), expected.shape[1]), entry + 1)
    torch.testing.assert_close(got, expected, **{"rtol": 2e-5, "atol": 2e-5} | tolerance)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("source", ["folder", "text", "pipeline", "pair"])
def test_the_denoiser_is_that_of_model_and_table(kind: str, source: str, tmp_path: Path) -> None:
    net, scheduler = unet(), ddpm(prediction_type=kind)
    sources: dict[str, Callable[[], Any]] = {
        "folder": lambda: saved(tmp_path / "prior", net, scheduler),
        "text": lambda: str(saved(tmp_path / "prior", net, scheduler)),
        "pipeline": lambda: DDPMPipeline(net, scheduler),
        "pair": lambda: (net, scheduler),
    }
    prior = from_diffusers(sources[source]())
    assert isinstance(prior.schedule, DDPMTable)
    assert (prior.event_shape, prior.dtype, prior.schedule.t_max) == (EVENT, torch.float32, T)
    for entry in (0, 7, 30):
        expected = by_hand(net, scheduler, states(), entry)
        assert not torch.allclose(expected, by_hand(net, scheduler, states(), entry + 1), atol=1e-3)
        close(prior, entry, expected)


def test_the_table_is_the_scheduler_s(tmp_path: Path) -> None:
    scheduler = ddpm(beta_schedule="squaredcos_cap_v2")
    prior = from_diffusers(saved(tmp_path, unet(), scheduler))
    alphas = prior.schedule.alpha(torch.arange(1, T + 1))
    torch.testing.assert_close(alphas**2, scheduler.alphas_cumprod.double())


@pytest.mark.parametrize("bound", [1.0, 0.3])
def test_clip_sample_is_part_of_the_prior(bound: float, tmp_path: Path) -> None:
    net, scheduler = unet(), ddpm(clip_sample=True, clip_sample_range=bound)
    raw = by_hand(net, scheduler, states(), 30)
    assert float(raw.abs().max()) > bound, "not in the corner"
    prior = from_diffusers(saved(tmp_path, net, scheduler))
    assert prior.clip == (-bound, bound)
    close(prior, 30, raw.clamp(-bound, bound))


def test_another_scheduler_with_a_table_serves_as_well(tmp_path: Path) -> None:
    net = unet()
    scheduler = DDIMScheduler(num_train_timesteps=T, clip_sample=False)
    close(from_diffusers(saved(tmp_path, net, scheduler)), 9, by_hand(net, ddpm(), states(), 9))


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_zero_terminal_snr_works_where_the_prediction_allows(kind: str, tmp_path: Path) -> None:
    net, scheduler = unet(), ddpm(prediction_type=kind, rescale_betas_zero_snr=True)
    assert float(scheduler.alphas_cumprod[-1]) == 0, "not in the corner"
    prior = from_diffusers(saved(tmp_path, net, scheduler))
    for entry in (7, T - 1):
        close(prior, entry, by_hand(net, scheduler, states(), entry), atol=2e-3)
    posterior = job(prior, times=sg.grids.trailing(4))
    assert torch.isfinite(posterior.particles).all()


@pytest.mark.parametrize("zero", [0.0, 2.0**-24])
def test_zero_terminal_snr_is_refused_for_epsilon(zero: float, tmp_path: Path) -> None:
    scheduler = ddpm(rescale_betas_zero_snr=True)
    scheduler.alphas_cumprod[-1] = zero
    with pytest.raises(sg.InvalidInput, match=r"DDPMScheduler has zero terminal SNR.*predict v"):
        from_diffusers((unet(), scheduler))
    with pytest.raises(sg.InvalidInput, match=r"zero terminal SNR"):
        from_diffusers(saved(tmp_path, unet(), scheduler))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_is_a_rectified_flow(shift: float, tmp_path: Path) -> None:
    net, scheduler = unet(), diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    prior = from_diffusers(saved(tmp_path, net, scheduler))
    assert isinstance(prior.schedule, RectifiedFlow)
    assert prior.prediction == "velocity"
    x, t = states(), 0.3
    expected = x - t * output(net, x, 1000 * t)
    assert not torch.allclose(expected, x - t * output(net, x, t), atol=1e-3)
    torch.testing.assert_close(prior.denoise(x, t), expected, rtol=2e-5, atol=2e-5)
    assert torch.isfinite(job(prior).log_evidence)


def test_the_flow_s_timesteps_are_those_its_scheduler_would_show_the_network() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    prior = from_diffusers((unet(), scheduler))
    scheduler.set_timesteps(7)
    for t, timestep in zip(scheduler.sigmas[:-1].tolist(), scheduler.timesteps, strict=True):
        assert prior.time_input is not None
        assert prior.time_input(t) == pytest.approx(float(timestep), rel=1e-6)


UNKNOWN: dict[str, tuple[Callable[[], Any], str]] = {
    "EDM": (diffusers.EDMEulerScheduler, r"EDMEulerScheduler .*unknown type.*NetworkPrior\(net"),
    "EDM solver": (diffusers.EDMDPMSolverMultistepScheduler, r"unknown type"),
    "score SDE": (diffusers.ScoreSdeVeScheduler, r"ScoreSdeVeScheduler .*=None is of unknown type"),
    "trigflow": (diffusers.SCMScheduler, r"'trigflow' is of unknown type"),
    "flow in a table": (
        lambda: diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        ),
        r"'flow_prediction' is of unknown type",
    ),
    "thresholding": (lambda: ddpm(thresholding=True), r"dynamic thresholding .* not supported"),
    "a flow in the other direction": (
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        r"invert_sigmas",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("source", ["folder", "pair"])
def test_schedulers_of_unknown_type_are_refused(name: str, source: str, tmp_path: Path) -> None:
    make, message = UNKNOWN[name]
    pair = unet(), make()
    with pytest.raises(sg.InvalidInput, match=message):
        from_diffusers(pair if source == "pair" else saved(tmp_path, *pair))


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "unet")
    for folder in (tmp_path, tmp_path / "unet", tmp_path / "missing", "google/ddpm-cifar10-32"):
        with pytest.raises(sg.InvalidInput, match=r"no model_index\.json.*not looked up"):
            from_diffusers(folder)


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        (
            "unet",
            ["transformers", "CLIPTextModel"],
            r"'CLIPTextModel' of 'transformers' as its unet",
        ),
        ("unet", ["diffusers", "NoSuchModel"], r"'NoSuchModel' of 'diffusers' as its unet"),
        ("scheduler", None, r"None of None as its scheduler"),
    ],
)
def test_a_pipeline_of_other_parts_is_refused(
    part: str, entry: Any, message: str, tmp_path: Path
) -> None:
    index = saved(tmp_path, unet(), ddpm()) / "model_index.json"
    entries = json.loads(index.read_text())
    entries.pop(part)
    index.write_text(json.dumps(entries | ({part: entry} if entry else {})))
    with pytest.raises(sg.InvalidInput, match=message):
        from_diffusers(tmp_path)


@pytest.mark.parametrize("source", [3, unet(), [unet(), ddpm()]], ids=["int", "model", "list"])
def test_other_sources_are_refused(source: Any) -> None:
    with pytest.raises(sg.InvalidInput, match=r"local folder, a pipeline .* or a pair"):
        from_diffusers(source)


def test_half_precision_particles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sg.InvalidInput, match=r"got torch\.float16"):
        from_diffusers(saved(tmp_path, unet(), ddpm()), dtype=torch.float16)


def test_without_diffusers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, unet(), ddpm())
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(sg.MissingExtra, match=r"pip install 'smcguide\[diffusers\]'"):
        from_diffusers(folder)


def test_learned_variances_are_cut(tmp_path: Path) -> None:
    net = unet(out_channels=4, in_channels=2)
    x = states(channels=2)
    prior = from_diffusers(saved(tmp_path, net, ddpm()))
    assert prior.event_shape == (2, 4, 4)
    abar = float(ddpm().alphas_cumprod[9])
    expected = (x - (1 - abar) ** 0.5 * output(net, x, 9)[:, :2]) / abar**0.5
    close(prior, 9, expected)


def test_a_network_of_another_shape_is_refused() -> None:
    prior = from_diffusers((unet(out_channels=3), ddpm()))
    with pytest.raises(sg.InvalidInput, match=r"maps \(3, 1, 4, 4\) to \(3, 3, 4, 4\)"):
        prior.denoise(states(), 10.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_network_serves_float32_particles(dtype: torch.dtype) -> None:
    net, scheduler = unet().to(dtype), ddpm()
    prior = from_diffusers((net, scheduler))
    assert prior.denoise(states(), 10.0).dtype == torch.float32
    close(prior, 9, by_hand(net, scheduler, states(), 9), rtol=1e-3, atol=1e-3)
    assert next(net.parameters()).dtype == dtype
    posterior = job(prior)
    assert posterior.particles.dtype == torch.float32
    assert torch.isfinite(posterior.log_evidence)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_network_is_told_the_exact_timestep(dtype: torch.dtype) -> None:
    """bfloat16 has eight bits: 517 is not among its numbers."""

    class Listening(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones((), dtype=dtype))
            self.heard: list[float] = []

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            self.heard.append(float(timestep[0]))
            return self.weight * x

    net = Listening()
    prior = NetworkPrior(
        net, DDPMTable(DDPMScheduler().alphas_cumprod), "sample", EVENT, time_dtype=torch.float32
    )
    prior.denoise(states(), 518.0)
    assert net.heard == [517.0]


@pytest.mark.parametrize("make", [DDPMScheduler, diffusers.FlowMatchEulerDiscreteScheduler])
def test_a_bfloat16_model_of_diffusers_is_told_the_exact_timestep(make: Callable[[], Any]) -> None:
    net, heard = unet().to(torch.bfloat16), []
    net.register_forward_pre_hook(lambda module, inputs: heard.append(float(inputs[1][0])))
    prior = from_diffusers((net, make()))
    prior.denoise(states(), 518.0 if make is DDPMScheduler else 0.517)
    assert heard == [pytest.approx(517.0, rel=1e-6)]


def test_float64_particles_around_a_float32_network() -> None:
    net, scheduler = unet(), ddpm()
    prior = from_diffusers((net, scheduler), dtype=torch.float64)
    x = states(dtype=torch.float64)
    D = prior.denoise(x, 10.0)
    assert D.dtype == torch.float64
    torch.testing.assert_close(D, by_hand(net, scheduler, x, 9), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("enabled", [True, False])
def test_loading_leaves_the_gradient_mode_alone(enabled: bool, tmp_path: Path) -> None:
    folder = saved(tmp_path, unet(), ddpm())
    before = torch.is_grad_enabled()
    with torch.set_grad_enabled(enabled):
        from_diffusers(folder)
        during = torch.is_grad_enabled()
    assert during is enabled
    assert torch.is_grad_enabled() is before


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, unet(), ddpm())
    before = torch.get_rng_state()
    from_diffusers(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_network_is_in_evaluation_mode(tmp_path: Path) -> None:
    for source in (saved(tmp_path, unet(), ddpm()), (unet().train(), ddpm())):
        prior = from_diffusers(source)
        assert isinstance(prior.net, UNet2DModel)
        assert not prior.net.training
        assert torch.equal(prior.denoise(states(), 10.0), prior.denoise(states(), 10.0))


def job(prior: NetworkPrior, **change: Any) -> sg.Posterior:
    mask = torch.zeros(EVENT, dtype=torch.bool)
    mask[:, :2] = True
    cost = LinearGaussian(mask, torch.zeros(EVENT), 0.5)
    steps = {} if "times" in change else {"num_steps": 4}
    settings = {"num_particles": 8, "progress": False} | steps | change
    return sg.sample(prior, cost, **settings)


@pytest.mark.parametrize("proposal", [None, sg.proposals.Bootstrap()], ids=["default", "Bootstrap"])
def test_the_whole_job_never_steps_the_scheduler(
    proposal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = from_diffusers(saved(tmp_path, unet(), ddpm(clip_sample=True)))

    def poison(*_: Any, **__: Any) -> None:
        raise AssertionError("scheduler.step was called")

    for name in ("step", "set_timesteps", "scale_model_input"):
        monkeypatch.setattr(DDPMScheduler, name, poison)
    posterior = job(prior, proposal=proposal, seed=5)
    assert posterior.particles.shape == (8, *EVENT)
    assert posterior.particles.dtype == torch.float32
    assert float(posterior.particles.abs().max()) <= 1, "the last step shows the clipped estimate"
    assert torch.isfinite(posterior.log_evidence)
    forward, backward = (4, 4) if proposal is None else (4, 0)
    assert posterior.evaluations["network_forward"] == 8 * forward
    assert posterior.evaluations.get("network_backward", 0) == 8 * backward
    again = job(prior, proposal=proposal, seed=5, chunk_size=3)
    torch.testing.assert_close(again.particles, posterior.particles, rtol=1e-4, atol=1e-4)


def test_the_run_leaves_no_gradients_in_the_network(tmp_path: Path) -> None:
    prior = from_diffusers(saved(tmp_path, unet(), ddpm()))
    before = copy.deepcopy(prior.net.state_dict())
    job(prior, proposal=sg.proposals.DTM(num_iters=2))
    assert all(p.grad is None for p in prior.net.parameters())
    assert all(torch.equal(a, before[n]) for n, a in prior.net.state_dict().items())


# ---- the prior that ships ------------------------------------------------------------------------


def digits() -> Tensor:
    """The 297 handwritten digits that its training did not see, (297, 1, 8, 8) in [-1, 1]."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images[-297:])
    return (images / 8 - 1).float()[:, None]


def test_the_digits_prior_is_one_of_digits() -> None:
    prior = sg.priors.load("digits")
    assert (prior.event_shape, prior.dtype) == ((1, 8, 8), torch.float32)
    report = check_prior(prior, digits())
    assert report.ok, str(report)
    middle = len(report.noise) // 2
    assert float((report.error / report.trivial)[middle]) < 0.7, str(report)


def test_the_digits_prior_is_a_diffusers_folder_of_modest_size() -> None:
    folder = Path(sg.priors.__file__).parent / "embedded" / "digits"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt", ".py"}
    assert any(path.suffix == ".safetensors" for path in files)
    ours, theirs = sg.priors.load("digits"), DDPMPipeline.from_pretrained(folder)
    x = digits()[:4]
    torch.testing.assert_close(ours.denoise(x, 9.0), from_diffusers(theirs).denoise(x, 9.0))
