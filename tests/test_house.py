"""tools/house.py on a repository small enough to count by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import house

METHOD = '''"""One
docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flawforge.types
from flawforge.nn import block  # a module
from flawforge.nn.losses import loss

if TYPE_CHECKING:
    from flawforge.pictures import dataset


class Net:
    """Not code."""

    def forward(self, x, *, y=1):
        """Nor is this."""
        # nor this

        def inner(*rest, **more):
            return rest

        return (
            x,
            """but this is,
            on two lines""",
        )
'''
SMALL = {
    "src/flawforge/__init__.py": "",
    "src/flawforge/types.py": "A = 1\n",
    "src/flawforge/nn/__init__.py": "from flawforge import unread\n",
    "src/flawforge/nn/block.py": "def f():\n    from flawforge_runtime import maps\n    return maps\n",
    "src/flawforge/nn/losses.py": "import flawforge.methods.paper\nloss = 2\n",  # a circle ends
    "src/flawforge/unread.py": "B = 1\n",
    "src/flawforge/pictures/__init__.py": "",
    "src/flawforge/pictures/dataset.py": "C = 1\n",
    "src/flawforge/methods/__init__.py": "",
    "src/flawforge/methods/paper.py": METHOD,
    "runtime/src/flawforge_runtime/__init__.py": "",
    "runtime/src/flawforge_runtime/maps.py": "D = 1\n\n\nE = 2\n",
    "tests/test_all.py": "from unittest.mock import Mock\n\nx = Mock()\n\n\ndef test_it(mocker):\n    assert x\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name, text in SMALL.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_method_leads_to_what_it_imports_and_to_nothing_else(small: Path) -> None:
    """Not to an `__init__` that only holds the module, nor to what is imported for types alone."""
    names = ["methods.paper", "nn.block", "nn.losses", "types"]
    assert house.reading("flawforge.methods.paper", small) == (
        *(f"flawforge.{name}" for name in names),
        "flawforge_runtime.maps",
    )
    paper = 5 + 2 + 2 + 2 + 5  # imports; if; class and def; inner; return of five lines, of which the text has two
    assert house.cost("flawforge.methods.paper", small) == (5, paper + 3 + 2 + 1 + 2)


def test_a_package_counts_where_a_name_of_its_own_is_imported(small: Path) -> None:
    (small / "src/flawforge/methods/table.py").write_text("from flawforge.nn import TABLE\n")
    expected = ("flawforge.methods.table", "flawforge.nn", "flawforge.unread")
    assert house.reading("flawforge.methods.table", small) == expected


def test_sizes_by_hand(small: Path) -> None:
    found = house.measured(small)
    assert len(found.files) == 12
    assert found.files[-1] == len(METHOD.splitlines())
    assert found.functions == (2, 3, 8)
    assert found.parameters == (0, 2, 2)
    assert found.tests == 4
    assert found.mocks == 2


def test_quantiles() -> None:
    assert [house.quantile(range(10), share) for share in (0.0, 0.5, 0.9, 0.99)] == [0, 5, 9, 9]
    assert house.quantile([7], 0.5) == 7
