"""
Options and Hypothesis profiles that all tests share.

Fixtures live beside the tests that use them; only what the command line or every room needs is here.
"""

from __future__ import annotations

import hypothesis
import pytest

# A deadline per example measures the machine's other work, not ours.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2_000)
hypothesis.settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this project."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files anew from what the code does now, and remove those without a case",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether this run rewrites the golden files instead of comparing with them."""
    return bool(request.config.getoption("--update-golden"))
