"""Attention of training-time test: every implementation is the oracle's, forward and backward."""

import importlib.util

import pytest
import torch

from eagle_hf.head.attention import ttt_attention


def operands(passes, size=37, groups=2, dtype=torch.float64, device="cpu"):
    """A query of 4 heads, keys and values of every pass, and a gradient of the output."""
    generator = torch.Generator().manual_seed(passes)
    per_head = (2, 4, size, 16)
    per_group = (2, groups, size, 16)
    tensors = []
    for shape in [per_head, *[per_group] * (2 * passes), per_head]:
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
        tensors.append(tensor.to(device, dtype).requires_grad_())
    return tensors


def attend(tensors, implementation, lengths):
    query, *keys_values = tensors
    half = len(keys_values) // 2
    return ttt_attention(query, keys_values[:half], keys_values[half:], implementation, lengths)


def output_and_gradients(tensors, implementation, lengths):
    """The last of the tensors is the gradient of the output."""
    *tensors, grad = tensors
    output = attend(tensors, implementation, lengths)
    return [output, *torch.autograd.grad(output, tensors, grad)]


def assert_close(ours, oracle, bound):
    """Every tensor of ours differs from the oracle's by a small share of its norm."""
    for index, (tensor, exact) in enumerate(zip(ours, oracle, strict=True)):
        assert (tensor.double().cpu() - exact).norm() <= bound * exact.norm(), index


@pytest.mark.parametrize("lengths", [None, [5, 1, 31]], ids=["whole", "packed"])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("passes", [1, 2, 7])
def test_sdpa_equals_the_float64_oracle(passes, groups, lengths):
    exact = operands(passes, groups=groups)
    rounded = operands(passes, groups=groups, dtype=torch.float32)
    oracle = output_and_gradients(exact, "eager", lengths)
    assert_close(output_and_gradients(rounded, "sdpa", lengths), oracle, 1e-5)
    assert_close(output_and_gradients(exact, "sdpa", lengths), oracle, 1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [None, [5, 1, 31]], ids=["whole", "packed"])
@pytest.mark.parametrize("passes", [1, 2, 7])
@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_cuda_equals_the_float64_oracle(implementation, passes, lengths):
    oracle = output_and_gradients(operands(passes), "eager", lengths)
    on_gpu = operands(passes, dtype=torch.float32, device="cuda")
    assert_close(output_and_gradients(on_gpu, implementation, lengths), oracle, 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is None, reason="flash_attn is not installed"
)
@pytest.mark.parametrize("passes", [1, 7])
def test_flash_attention_equals_the_float64_oracle(passes):
    oracle = output_and_gradients(operands(passes), "eager", None)
    on_gpu = operands(passes, dtype=torch.bfloat16, device="cuda")
    ours = output_and_gradients(on_gpu, "flash_attention_2", None)
    assert_close(ours, oracle, 2e-2)  # bfloat16 has 8 bits


@pytest.mark.parametrize("lengths", [None, [5, 1, 31]], ids=["whole", "packed"])
@pytest.mark.parametrize("passes", [1, 3])
def test_flex_attention_forward_equals_the_oracle(passes, lengths):
    tensors = [tensor.detach() for tensor in operands(passes)[:-1]]
    with torch.no_grad():
        oracle = attend(tensors, "eager", lengths)
        ours = attend(tensors, "flex_attention", lengths)
    assert_close([ours], [oracle], 1e-6)


def test_the_oracle_is_one_softmax_over_the_visible_slots():
    query, *rest = (tensor.detach() for tensor in operands(2, size=5)[:-1])
    keys = rest[:2]
    values = rest[2:]
    output = ttt_attention(query, keys, values, "eager", [2, 3])

    def seen_from(slot, visible, passes):
        seen = torch.cat([passes[0][:, :, visible], passes[1][:, :, [slot]]], dim=2)
        return seen.repeat_interleave(2, dim=1)  # two heads share a group

    for slot, visible in enumerate([[0], [0, 1], [2], [2, 3], [2, 3, 4]]):
        key = seen_from(slot, visible, keys)
        value = seen_from(slot, visible, values)
        weights = (query[:, :, slot, None] @ key.transpose(-1, -2) / 4).softmax(-1)
        assert torch.allclose(output[:, :, slot], (weights @ value)[:, :, 0])


def test_sdpa_holds_nothing_of_length_squared():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **kwargs or {})
            for part in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(part, torch.Tensor):
                    largest = max(largest, part.numel())
            return result

    tensors = operands(3, size=1024, dtype=torch.float32)
    with Watch():
        output_and_gradients(tensors, "sdpa", None)
    assert largest == tensors[0].numel()


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flash_attention_3", "sdpo"])
def test_what_a_device_cannot_run_is_refused(implementation):
    with pytest.raises(ValueError, match=f"{implementation}.* on cpu; choose sdpa"):
        attend(operands(1)[:-1], implementation, None)


def test_flex_attention_on_a_cpu_names_what_trains_there():
    with pytest.raises(ValueError, match="sdpa"):
        attend(operands(1)[:-1], "flex_attention", None)
    with pytest.raises(ValueError, match="do not fill rows of 37"):
        attend(operands(1)[:-1], "sdpa", [5, 5])
