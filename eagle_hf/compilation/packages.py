"""Compiled forwards, kept on disk: a second process opens one in a second or two.

A package holds code. Weights stay where the model has them, and are lent to the code when it is
opened. So a package is a few megabytes, and serves every model of its config and dtype.

State: none. What was made lies in `cache_folder()`.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils._pytree import tree_map

from eagle_hf.compat import attention_implementation
from eagle_hf.compilation import operators
from eagle_hf.compilation.attention import load_attention
from eagle_hf.compilation.building import cpu_features, tuning
from eagle_hf.compilation.forwards import ExportedForward, Sizes
from eagle_hf.compilation.graphs import export_forward
from eagle_hf.target import execution_device, unwrap
from eagle_hf.target.gguf.copies import cache_folder

PACKAGE = "forward.pt2"
CONSTANTS = "constants.safetensors"  # tensors that a forward makes itself
SETTINGS: dict[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    # What is left beside the operators is small: a second thread costs more than it saves. Without
    # OpenMP a package is right for every number of threads.
    "cpp.threads": 1,
    # RoPE's cosines are computed once and not in every layer (8 of 12 ms of SmolLM2-135M).
    "realize_opcount_threshold": 4,
}


# Of the example that is exported: none is 1 and no two are equal, so that all become symbols.
EXPORTED = Sizes(batch=2, tokens=4, base=7, capacity=24)
# Of those that a new package is tried with.
TRIED = (Sizes(1, 1, 9, 64), Sizes(3, 7, 30, 128), Sizes(1, 5, 20, 32))
# How far its results may be from the model's own, as a share of their norm.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2}
# In other dtypes. What is compiled rounds less often: for SmolLM2 in bfloat16 it was 0.09 to 0.29
# from the model's own results, and nearer to float32's than those (0.04 to 0.18; 0.07 to 0.26).
ROUGH = 0.5


class PackageError(RuntimeError):
    """A forward cannot be compiled or kept; says why."""


class KeptForward:
    """A compiled forward over the weights of one model.

    Args:
        folder: what `make_package` has written.
        forward: the forward it was made of, or of another model of the same key.
    """

    def __init__(self, folder: Path, forward: ExportedForward):
        self._label = f"compiled {forward.name}"  # in a profile
        load_attention()
        operators.is_available()
        self._package = torch._inductor.aoti_load_package(str(folder / PACKAGE))
        made = load_file(folder / CONSTANTS)
        tensors = made | named_tensors(forward)
        self._weights = {name: tensors[name] for name in self._package.get_constant_fqns()}
        self._read = {name for name in self._weights if name not in made}
        # user_managed: the code reads the model's own memory
        self._package.load_constants(self._weights, check_full_update=True, user_managed=True)

    def __call__(self, inputs: Any) -> tuple[Tensor, ...]:
        """What the forward returns for these inputs."""
        flat = []
        for value in inputs:
            if isinstance(value, Tensor):
                flat.append(value.contiguous())
            elif isinstance(value, dict):
                flat += [tensor.contiguous() for tensor in value.values()]
            else:  # buffers are written to, and must not be copied
                assert all(buffer.is_contiguous() for buffer in value)
                flat += value
        # The package's own call parses its signature each time, which takes a millisecond.
        with record_function(self._label):
            return tuple(self._package.loader.boxed_run(flat))

    def reads(self, forward: ExportedForward) -> bool:
        """Whether the weights of a forward are still those that the code reads."""
        tensors = named_tensors(forward)
        for name in self._read:
            if name not in tensors or tensors[name].data_ptr() != self._weights[name].data_ptr():
                return False
        return True


def open_forward(forward: ExportedForward) -> KeptForward | None:
    """Open the package of a forward.

    Returns:
        The forward; None where nothing is kept for it.

    Raises:
        BuildError: The operators that it calls cannot be compiled or kept.
    """
    folder = package_folder(forward)
    if not (folder / PACKAGE).exists():
        return None
    return KeptForward(folder, forward)


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
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".compiling-") as scratch:
            finished = Path(scratch, folder.name)
            finished.mkdir()
            compile_forward(forward, finished)
            check_results(KeptForward(finished, forward), forward)
            keep(finished, folder)
    except OSError as error:
        raise PackageError(
            f"{folder.parent} cannot be written ({error.strerror}); "
            "set EAGLE_HF_CACHE to a folder that can"
        ) from error


def compile_forward(forward: ExportedForward, folder: Path) -> None:
    """Write the package of a forward into a folder that exists.

    Raises:
        PackageError: The model cannot be exported or compiled.
    """
    name = type(unwrap(forward.model)).__name__
    try:
        program = export_forward(forward, forward.example(EXPORTED))
        with torch.no_grad():
            # torch extends the settings that it is given
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / PACKAGE), inductor_configs=dict(SETTINGS)
            )
    # Models and compilers fail in every way there is; the reason is the caller's to tell.
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise PackageError(
            f"the forward of {name} cannot be compiled ({type(error).__name__}: {reason})"
        ) from error
    own = named_tensors(forward)
    made = {}
    for constant, value in program.constants.items():
        if isinstance(value, Tensor) and constant not in own:
            made[constant] = value.clone(memory_format=torch.contiguous_format)
    save_file(made, folder / CONSTANTS)


@torch.no_grad()
def check_results(kept: KeptForward, forward: ExportedForward) -> None:
    """Compare a new package with the model itself.

    Raises:
        PackageError: They differ by more than rounding.
    """
    tolerance = TOLERANCE.get(forward.model.dtype, ROUGH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for sizes in TRIED:
            inputs = forward.example(sizes)
            results = kept(tree_map(torch.clone, inputs))
            for result, own in zip(results, forward(*inputs), strict=True):
                distance = float((result - own).float().norm() / own.float().norm())
                if not distance <= tolerance:  # not a number, too
                    raise PackageError(
                        f"its compiled results are off by {distance:.2g} of their norm"
                    )


def keep(finished: Path, folder: Path) -> None:
    """Give a finished package its name, unless another process was faster."""
    try:
        os.replace(finished, folder)
    except OSError:
        if not (folder / PACKAGE).exists():
            raise


def package_folder(forward: ExportedForward) -> Path:
    """Where the package of a forward lies, or would lie."""
    name = type(unwrap(forward.model)).__name__
    return cache_folder() / "forwards" / f"{name}-{package_key(forward)}"


def package_key(forward: ExportedForward) -> str:
    """A hash of all that a package depends on."""
    parts = {
        "config": unwrap(forward.model).config.to_dict(),
        "tensors": described(named_tensors(forward)),
        "computed": forward.name,
        "attention": attention_implementation(unwrap(forward.model).config),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": (cpu_features(), tuning()),
        "operators": operators.is_available(),
        "settings": SETTINGS,
        "sources": source_hash(),
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module by name; shared ones under each of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    tensors = {name: parameter.detach() for name, parameter in parameters}
    return tensors | dict(module.named_buffers(remove_duplicate=False))


def described(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Dtypes and shapes; and which tensors share their memory."""
    first: dict[int, str] = {}
    descriptions = {}
    for name, tensor in tensors.items():
        shares = first.setdefault(tensor.data_ptr(), name)
        descriptions[name] = f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {shares}"
    return descriptions


def source_hash() -> str:
    """A hash of this room's files: what they make of a model changes with them."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.iterdir()):
        if file.suffix in (".py", ".cpp"):
            digest.update(file.read_bytes())
    return digest.hexdigest()
