"""Options, and guards around every test: torch's global state is left alone, nothing is downloaded.

pytest --device cuda --dtype float32     where and in what the conformance suites put their particles
pytest -m slow                           the tests that take more than a few seconds
SMCGUIDE_TEST_SEED=1 pytest              other random numbers
"""

import ipaddress
import socket

import pytest
import torch

# Whole examples and benchmarks, and the longest chains, whose parts other tests cover: up to a minute
# each. Marked slow.
EXAMPLE = "tests/test_examples.py::test_an_example_runs_to_its_end_and_makes_its_picture"
LONG = (
    *(f"{EXAMPLE}[{name}]" for name in (
        "unknown_noise", "hierarchical", "model_comparison", "blind_deconvolution",
        "source_separation", "numpyro_quickstart", "pyro_quickstart",
    )),
    "tests/test_examples.py::test_train_digits_saves_a_loadable_prior",
    "tests/test_examples.py::test_the_examples_of_diagnostics_run_to_their_ends",
    "tests/test_examples.py::test_benchmark_",
    "tests/test_examples.py::test_compare_methods",
    "tests/test_docs.py::test_the_code_of_a_page_runs[trust]",
    "tests/test_network_speed.py::test_evidence_and_mean_of_digits_are_those_of_float32",
    "tests/test_benchmarks_network.py::test_a_case_in_a_process_of_its_own",
    "tests/test_benchmarks_network.py::test_memory_makes_a_table_and_a_figure",
    "tests/test_benchmarks_speed.py::test_one_command_writes_tables_machine_and_figure",
    "tests/test_benchmarks_speed.py::test_two_processes_are_started_and_compared",
    "tests/test_benchmarks_speed.py::test_time_and_error_are_fitted_against_every_size",
    "tests/test_benchmarks_speed.py::test_the_error_falls_as_it_should",
    "tests/test_benchmarks_peers.py::test_a_smoke_run_without_environments_names_who_is_missing",
    "tests/test_benchmarks.py::test_every_problem_runs_and_the_reference_is_the_budget",
    "tests/test_numpyro_smc.py::test_nuts_agrees",
    "tests/test_pyro_smc.py::test_nuts_agrees",
)  # fmt: skip


def pytest_addoption(parser):
    group = parser.getgroup("smcguide")
    group.addoption("--device", default="cpu", help="device of the particles, default cpu")
    group.addoption("--dtype", default="float64", choices=["float32", "float64"])


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before `-m slow` selects
def pytest_collection_modifyitems(config, items):
    on_cpu = config.getoption("device") == "cpu"
    for item in items:
        if item.nodeid.startswith(LONG):
            item.add_marker(pytest.mark.slow)
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
