"""What all tests share."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

os.environ["COLUMNS"] = "80"  # whatever the terminal's: help and tables are wrapped alike

# Shapes in signatures are checked in tests, and cost nothing in production. Before anything imports fewhertz.
install_import_hook(
    [f"fewhertz.{name}" for name in ("families", "layout", "methods", "plan", "present", "scores")], "beartype.beartype"
)

from tiny import TINY  # noqa: E402

own_methods: list[str] = []  # names of the methods that `--import` brought, for tests/methods/test_contract.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--import",
        action="append",
        default=[],
        dest="own_methods",
        metavar="MODULE|FILE",
        help="methods of your own, for tests/methods/test_contract.py to run on",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("own_methods"):
        return
    import fewhertz.methods  # noqa: F401  (fills METHODS)
    from fewhertz.method import METHODS

    shipped = set(METHODS)
    for name in config.getoption("own_methods"):
        path = Path(name)
        sys.path.insert(0, str(path.parent.resolve()))
        importlib.import_module(path.stem if path.suffix == ".py" else name)
    own_methods.extend(sorted(set(METHODS) - shipped))


@pytest.fixture(scope="session", params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family in turn."""
    return request.param


@pytest.fixture(scope="session")
def model(family: str) -> Any:
    """Its tiny random model; who changes it changes it back."""
    return TINY[family].build()
