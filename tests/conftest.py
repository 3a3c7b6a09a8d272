"""Options, and guards around every test: torch's global state is left alone, nothing is downloaded.

pytest --device cuda --dtype float32     where and in what the conformance suites put their particles
pytest -m slow                           the tests that take more than a few seconds
SMCGUIDE_TEST_SEED=1 pytest              other random numbers
"""

import ipaddress
import socket

import pytest
import torch


def pytest_addoption(parser):
    group = parser.getgroup("smcguide")
    group.addoption("--device", default="cpu", help="device of the particles, default cpu")
    group.addoption("--dtype", default="float64", choices=["float32", "float64"])


def pytest_configure(config):
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    on_cpu = config.getoption("device") == "cpu"
    for item in items:
        if item.get_closest_marker("gpu") and on_cpu:
            item.add_marker(pytest.mark.skip(reason="needs --device cuda"))
        if item.get_closest_marker("slow") and not config.getoption("markexpr"):
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("device"))


@pytest.fixture
def dtype(request):
    return {"float32": torch.float32, "float64": torch.float64}[request.config.getoption("dtype")]


def _torch_state():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "argument validation": torch.distributions.Distribution._validate_args,
    }


def _restore(state):
    torch.set_default_dtype(state["default dtype"])
    torch.set_default_device(state["default device"])
    torch.set_grad_enabled(state["gradients"])
    torch.set_num_threads(state["threads"])
    torch.use_deterministic_algorithms(state["deterministic"])
    torch.autograd.set_detect_anomaly(state["anomaly detection"])
    torch.distributions.Distribution.set_default_validate_args(state["argument validation"])


@pytest.fixture(autouse=True)
def torch_global_state_is_left_alone():
    before = _torch_state()
    yield
    after = _torch_state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    if changed:
        _restore(before)
    assert not changed, f"the test changed torch's global state (before, after): {changed}"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Connections beyond this machine are refused."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and not _is_local(address[0]):
            raise OSError(f"tests may not connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_local(host):
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
