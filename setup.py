"""Packaging of cola_msa; BUILD.md gives the reason for every bound."""

import pathlib

from setuptools import find_packages, setup

_ROOT = pathlib.Path(__file__).parent

SEPARATION = ["openunmix>=1.3.0", "torch>=2.13.0", "torchaudio>=2.11.0"]
AUGMENT = ["tensorflow-io>=0.37.1", "keras-cv>=0.9.0"]
EMBED = ["pyarrow>=16"]
SEARCH = ["faiss-cpu>=1.11"]
HUB = ["huggingface_hub>=1.2"]
FORMATS = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"]
BEAM = ["apache-beam>=2.77", "google-crc32c>=1.9"]
DASK = ["apache-beam[dask]>=2.77", "google-crc32c>=1.9"]
SOUNDFONT = ["pyfluidsynth>=1.3.4"]
DEV = [
    "hypothesis>=6.100",
    "selenium>=4.20",
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "mypy>=1.14",
    "nbclient>=0.10",
    "ipykernel>=6.29",
    "lancedb>=0.20",
    "setuptools>=77",
]

setup(
    name="cola_msa",
    version="0.1.0",
    description="Music representations without labels, by musical source association",
    long_description=(_ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(
        include=["cola_msa", "cola_msa.*", "data_prep", "data_prep.*"]
    ),
    package_data={
        "cola_msa": ["py.typed"],
        "cola_msa.collection.map": ["page/*"],
        "cola_msa.hub": ["starter/*"],
        "cola_msa.hub.sharing": ["registry.json"],
        "data_prep": ["py.typed"],
    },
    entry_points={"console_scripts": ["cola-msa = cola_msa.__main__:main"]},
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<4",
        "numpy>=2.0",
        "scipy>=1.11",
        "absl-py>=2.1",
        "scikit-learn>=1.5",
        "soundfile>=0.13",
        "soxr>=0.5",
        "tqdm>=4.66",
        "matplotlib>=3.9",
        "h5py>=3.11",
        "fsspec>=2024.6",
    ],
    extras_require={
        "separation": SEPARATION,
        "augment": AUGMENT,
        "embed": EMBED,
        "search": SEARCH,
        "formats": FORMATS,
        "hub": HUB,
        "soundfont": SOUNDFONT,  # not in `all`: it needs a system library
        "umap": ["umap-learn>=0.5.7"],  # not in `all`: its Numba bounds NumPy
        "beam": BEAM,  # not in `all`: large, and for clusters only
        "dask": DASK,  # `beam` and a cluster of Python alone
        "dev": DEV + DASK + SOUNDFONT,
        "all": SEPARATION + AUGMENT + EMBED + SEARCH + FORMATS + HUB,
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
    ],
)
