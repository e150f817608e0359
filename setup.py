from pathlib import Path

from setuptools import find_packages, setup

quickstart = ["trl>=1.16", "datasets>=5.2", "gguf>=0.19", "matplotlib>=3.10", "pyyaml"]

setup(
    name="eagle_hf",
    version="0.1.0",
    description="Train EAGLE-3 draft heads for any Hugging Face causal LM and decode losslessly with them.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["eagle_hf", "eagle_hf.*"]),
    package_data={"eagle_hf.data": ["bundled/*"], "eagle_hf.hub": ["*.jinja", "custom_generate/*.py"]},
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17",
        "accelerate>=1.15",
        "peft>=0.21",
        "huggingface-hub>=1.0",
        "fsspec",
        "safetensors>=0.8",
        "tqdm",
    ],
    extras_require={"quickstart": quickstart, "test": quickstart + ["pytest>=9", "pytest-xdist>=3.8", "moto[server]>=5.2", "s3fs", "tensorboard>=2.21", "trackio>=0.43"]},
    entry_points={"console_scripts": ["eagle-hf=eagle_hf.cli:main"]},
)
