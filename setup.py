from pathlib import Path

from setuptools import find_packages, setup

# The upper bounds are what was tested: constraints.txt has the newest of each, `make test-oldest` the oldest transformers.
quickstart = [
    "trl>=1.16,<1.17",
    "datasets>=5.2,<6",
    "gguf>=0.19,<0.20",
    "matplotlib>=3.10,<4",
    "pyyaml",
]
test = [
    "pytest>=9",
    "pytest-xdist>=3.8",
    "moto[server]>=5.2",
    "s3fs",
    "tensorboard>=2.21",
    "trackio>=0.43",
]

setup(
    name="eagle_hf",
    version="0.1.0",
    description="Train EAGLE-3 draft heads for any Hugging Face causal LM and decode losslessly with them.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["eagle_hf", "eagle_hf.*"]),
    package_data={
        "eagle_hf.data": ["bundled/*"],
        "eagle_hf.hub": ["*.jinja", "custom_generate/*.py"],
    },
    install_requires=[
        "torch>=2.11,<2.15",
        "transformers>=5.17,<5.25",
        "accelerate>=1.15,<2",
        "peft>=0.21,<0.22",
        "huggingface-hub>=1.31,<3",
        "fsspec",
        "packaging",
        "safetensors>=0.8,<0.9",
        "tqdm",
    ],
    extras_require={"quickstart": quickstart, "test": quickstart + test},
    entry_points={"console_scripts": ["eagle-hf=eagle_hf.cli:main"]},
)
