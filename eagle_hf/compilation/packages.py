"""Compiled forwards, kept on disk: a second process opens one in a second or two.

A package holds code. Weights stay where the model has them, and are lent to the code when it is
opened. So a package is a few megabytes, and serves every model of its config and dtype.

State: none. What was made lies in `cache_folder()`.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import AOTICompiledModel
from torch.profiler import record_function
from torch.utils._pytree import tree_map

from eagle_hf.compilation import operators
from eagle_hf.compilation.attention import load_attention
from eagle_hf.compilation.building import BuildError
from eagle_hf.compilation.forwards import ExportedForward, RowInputs, Sizes
from eagle_hf.compilation.graphs import SETTINGS, export_forward
from eagle_hf.compilation.keys import named_tensors, package_folder
from eagle_hf.target import execution_device

PACKAGE = "forward.pt2"
MODEL = "model"  # torch's name of the only one in a package
RUNNERS = 1
ANY_DEVICE = -1
CONSTANTS = "constants.safetensors"  # tensors that a forward makes itself


# Of the example that is exported: none is 1 and no two are equal, so that all become symbols.
EXPORTED = Sizes(batch=2, tokens=4, wanted=3, base=7, capacity=24)
# Of those that a new package is tried with.
TRIED = (Sizes(1, 1, 1, 9, 64), Sizes(3, 7, 2, 30, 128), Sizes(1, 5, 5, 20, 32))
# How far its results may be from the model's own, as a share of their spread.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2}
# In other dtypes. What is compiled rounds less often: for SmolLM2 in bfloat16 it was 0.02 to 0.13
# from the model's own results.
ROUGH = 0.5


class PackageError(RuntimeError):
    """A forward cannot be compiled or kept; says why."""


class KeptForward:
    """A compiled forward over the weights of one model.

    Args:
        folder: what `make_package` has written.
        forward: the forward it was made of, or of another model of the same key.

    Attributes:
        buffer_shapes: of the keys and values that it writes to.
    """

    def __init__(self, folder: Path, forward: ExportedForward):
        self._label = f"compiled {forward.name}"  # in a profile
        self.buffer_shapes = forward.buffer_shapes()
        load_attention()
        operators.is_available()
        self._package = load_package(folder / PACKAGE)
        own = named_tensors(forward)
        tensors = load_file(folder / CONSTANTS) | own
        self._weights = {name: tensors[name] for name in self._package.get_constant_fqns()}
        self._places = places(own)
        # user_managed: the code reads the model's own memory
        self._package.load_constants(self._weights, check_full_update=True, user_managed=True)

    def __call__(self, inputs: Any) -> tuple[Tensor, ...]:
        """What the forward returns for these inputs."""
        flat = []
        for value in inputs:
            if isinstance(value, Tensor):
                flat.append(value.contiguous())
            elif isinstance(value, dict):
                flat += [value[kind].contiguous() for kind in sorted(value)]
            else:  # buffers are written to, and must not be copied
                assert all(buffer.is_contiguous() for buffer in value)
                flat += value
        # The package's own call parses its signature each time, which takes a millisecond.
        with record_function(self._label):
            return tuple(self._package.loader.boxed_run(flat))

    def by_row(self, states: Tensor) -> Tensor:
        """The results [..., M] of states [..., K], by a forward over `RowInputs`."""
        (rows,) = self(RowInputs(states.flatten(0, -2)))
        return rows.unflatten(0, states.shape[:-1])

    def reads(self, forward: ExportedForward) -> bool:
        """Whether the weights of a forward are still those that the code reads."""
        return self._places == places(named_tensors(forward))


def load_package(file: Path) -> AOTICompiledModel:
    """Load the code of a package.

    `torch._inductor.aoti_load_package` does so too, but first runs the C++ compiler to learn the
    processor's instruction sets, for a second. Here they are part of the folder's name.
    """
    loader: Any = torch._C._aoti.AOTIModelPackageLoader
    is_single_threaded = False
    return AOTICompiledModel(loader(str(file), MODEL, is_single_threaded, RUNNERS, ANY_DEVICE))


def open_forward(forward: ExportedForward) -> KeptForward | None:
    """Open the package of a forward.

    Returns:
        The forward; None where nothing is kept for it.

    Raises:
        PackageError: What is kept cannot be opened.
        BuildError: The operators that it calls cannot be compiled or kept.
    """
    folder = package_folder(forward)
    if not (folder / PACKAGE).exists():
        return None
    try:
        return KeptForward(folder, forward)
    except BuildError:
        raise
    except Exception as error:  # whatever torch raises for a file that was cut off
        raise PackageError(
            f"what is kept in {folder} cannot be opened ({first_line(error)}); remove that folder"
        ) from error


def make_forward(forward: ExportedForward) -> KeptForward:
    """Compile a forward, keep it, and open it. That takes a minute or more.

    Args:
        forward: of a model on the CPU.

    Raises:
        PackageError: The model cannot be exported or compiled, or the folder cannot be written.
        BuildError: The operators that it calls cannot be compiled or kept.
    """
    device = execution_device(forward.model)
    if device.type != "cpu":
        raise PackageError(f"forwards are kept for CPUs, but the model is on {device}")
    folder = package_folder(forward)
    make_package(forward, folder)
    return KeptForward(folder, forward)


def make_package(forward: ExportedForward, folder: Path) -> None:
    """Export and compile a forward into a folder, which appears when all of it is written.

    Several processes may do so at once: the first to end keeps its package.

    Raises:
        PackageError: The model cannot be exported or compiled, or the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".compiling-")
    except OSError as error:
        raise PackageError(
            f"{folder.parent} cannot be written ({error.strerror}); "
            "set EAGLE_HF_CACHE to a folder that can"
        ) from error
    # the caller's sampling must not notice, nor its autocast be compiled into the code
    with scratch, torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
        finished = Path(scratch.name, folder.name)
        finished.mkdir()
        torch.manual_seed(0)
        compile_forward(forward, finished)
        keep(finished, folder)


def compile_forward(forward: ExportedForward, folder: Path) -> None:
    """Write the package of a forward into a folder that exists.

    Raises:
        PackageError: The model cannot be exported or compiled.
    """
    try:
        program = export_forward(forward, forward.example(EXPORTED))
        with torch.no_grad():
            # torch extends the settings that it is given
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / PACKAGE), inductor_configs=dict(SETTINGS)
            )
        save_file(made_constants(program, forward), folder / CONSTANTS)
        check_results(KeptForward(folder, forward), forward)
    except (BuildError, PackageError):
        raise
    # Models and compilers fail in every way there is; the reason is the caller's to tell.
    except Exception as error:
        raise PackageError(f"its forward cannot be compiled ({first_line(error)})") from error


def made_constants(program: ExportedProgram, forward: ExportedForward) -> dict[str, Tensor]:
    """The tensors that a forward makes itself, which are no weights of the model."""
    own = named_tensors(forward)
    made = {}
    for name, value in program.constants.items():
        if isinstance(value, Tensor) and name not in own:
            made[name] = value.clone(memory_format=torch.contiguous_format)
    return made


@torch.no_grad()
def check_results(kept: KeptForward, forward: ExportedForward) -> None:
    """Compare a new package with the model itself.

    Raises:
        PackageError: They differ by more than rounding.
    """
    tolerance = TOLERANCE.get(forward.model.dtype, ROUGH)
    for sizes in TRIED:
        inputs = forward.example(sizes)
        results = kept(tree_map(torch.clone, inputs))
        for result, own in zip(results, forward(*inputs), strict=True):
            own = own.float()
            distance = float((result.float() - own).norm() / (own - own.mean()).norm())
            if not distance <= tolerance:  # not a number, too
                raise PackageError(
                    f"its compiled results are off by {distance:.2g} of what they should be"
                )


def first_line(error: Exception) -> str:
    """An exception's kind and the first line of what it says."""
    lines = str(error).strip().splitlines() or ["without a text"]
    return f"{type(error).__name__}: {lines[0]}"


def places(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Where each tensor lies in memory."""
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def keep(finished: Path, folder: Path) -> None:
    """Give a finished package its name, unless another process was faster."""
    if folder.exists() and not (folder / PACKAGE).exists():
        shutil.rmtree(folder)  # of a release that was cut off
    try:
        os.replace(finished, folder)
    except OSError:
        if not (folder / PACKAGE).exists():
            raise
