"""What is claimed of a GPU, on a GPU: every CUDA path has plain decoding's tokens."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "gpu"))

import smoke  # noqa: E402
from cells import Setting  # noqa: E402

HAS_FLASH = smoke.find_spec("flash_attn") is not None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU"),
]


@pytest.mark.parametrize("path", smoke.paths(), ids=lambda path: path.name)
def test_a_cuda_path_has_plain_decodings_tokens(path, tmp_path):
    if path.attention == smoke.FLASH and not HAS_FLASH:
        pytest.skip("flash_attn is not installed")
    setting = Setting(torch.device("cuda:0"), False, 600.0, tmp_path)
    found = smoke.checked(path, setting)
    assert found["same"] == 1.0
    assert found["tau"] > 1
