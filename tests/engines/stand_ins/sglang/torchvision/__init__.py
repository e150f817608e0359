"""Every name of torchvision, and nothing behind any.

SGLang imports it for images, and its published builds are for GPUs.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

__version__ = "0.28.0"


class Hollow(type):
    """A class with any attribute, which is its name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class HollowModule(types.ModuleType):
    """A module with any class."""

    def __getattr__(self, name: str) -> Hollow:
        if name.startswith("__"):
            raise AttributeError(name)
        return Hollow(name, (), {})


class HollowModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds any module below this package."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("torchvision."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> HollowModule:
        return HollowModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.append(HollowModules())
