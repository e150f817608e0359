"""The dtype by machine and by work; an explicit one is obeyed, with its cost said, or refused."""

import pytest
import torch
from tiny import tiny_target, word_tokenizer

from eagle_hf import Eagle3TrainingArguments, load_target
from eagle_hf.target import dtypes
from eagle_hf.target.dtypes import choose_dtype, cpu_features, has_native_bf16, resolve_dtype

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
EMULATING = {
    (BF16, 1): 37,
    (BF16, 8): 157,
    (BF16, 32): 300,
    (BF16, 256): 900,
    (FP32, 1): 64,
    (FP32, 8): 99,
    (FP32, 32): 120,
    (FP32, 256): 300,
}


@pytest.fixture
def machine(monkeypatch):
    """machine(features): a CPU with these features, whose products cost what EMULATING says."""

    def product_seconds(dtype, rows, device="cpu"):
        return EMULATING[dtype, rows]

    monkeypatch.setattr(dtypes, "product_seconds", product_seconds)

    def become(*features):
        monkeypatch.setattr(dtypes, "cpu_features", lambda: features)

    dtypes._say_cost.cache_clear()
    yield become
    dtypes._say_cost.cache_clear()


@pytest.mark.parametrize(
    "features",
    [("avx512", "avx512_bf16"), ("avx512", "avx512_bf16", "amx_bf16"), ("default", "arm_bf16")],
)
@pytest.mark.parametrize("work", dtypes.WORKS)
def test_a_cpu_with_bfloat16_takes_it_for_everything(machine, features, work):
    machine(*features)
    assert choose_dtype("cpu", work) == BF16


@pytest.mark.parametrize(
    "work, dtype", [("draft", BF16), ("batch", FP32), ("prefill", FP32), ("train", FP32)]
)
def test_a_cpu_that_emulates_it_is_measured_for_the_work(machine, work, dtype):
    machine("avx2")
    assert choose_dtype("cpu", work) == dtype


def test_where_trees_in_float32_beat_plain_decoding_in_emulated_bfloat16_they_win(
    machine, monkeypatch
):
    machine("avx2")
    monkeypatch.setitem(EMULATING, (FP32, 8), 60)
    assert choose_dtype("cpu", "draft") == FP32


def test_training_never_autocasts_to_emulated_bfloat16(machine, tmp_path):
    machine("avx2")
    assert not Eagle3TrainingArguments(str(tmp_path), use_cpu=True, report_to="none").bf16
    machine("avx512", "avx512_bf16")
    assert Eagle3TrainingArguments(str(tmp_path), use_cpu=True, report_to="none").bf16


def test_training_on_a_machine_without_a_gpu_needs_no_use_cpu(machine, monkeypatch, tmp_path):
    machine("avx512", "avx512_bf16")
    monkeypatch.setattr("eagle_hf.training.arguments.default_device", lambda: torch.device("cpu"))
    assert Eagle3TrainingArguments(str(tmp_path), report_to="none").bf16


@pytest.mark.parametrize("asked", [True, False])
def test_training_obeys_what_was_asked_for(machine, tmp_path, asked):
    machine("avx512", "avx512_bf16")
    arguments = Eagle3TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", bf16=asked)
    assert arguments.bf16 is asked


@pytest.mark.parametrize("is_native, dtype", [(True, BF16), (False, FP16)])
def test_gpus_take_bfloat16_where_they_have_it(monkeypatch, is_native, dtype):
    def is_bf16_supported(including_emulation):
        return is_native and not including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert {choose_dtype("cuda", work) for work in dtypes.WORKS} == {dtype}


def test_apples_gpus_take_float16():
    assert choose_dtype("mps", "draft") == FP16
    assert choose_dtype("mps", "train") == FP32


@pytest.mark.parametrize("limit", ["AVX2", "avx512_core"])
def test_the_other_kind_of_cpu_can_be_imitated(monkeypatch, limit):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert has_native_bf16("cpu")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert not has_native_bf16("cpu")
    assert len(cpu_features()) == 1


def test_an_explicit_dtype_is_obeyed_and_its_cost_is_said_once(machine, monkeypatch):
    machine("avx2")
    said = []
    monkeypatch.setattr(dtypes.logger, "warning", said.append)
    assert resolve_dtype("float32", "cpu") == FP32
    assert resolve_dtype("float32", "cpu") == FP32
    assert len(said) == 1
    costs = "one token cost 1.7 times and those of 8 tokens 0.6 times what they cost in bfloat16"
    assert costs in said[0]


def test_the_best_dtype_and_a_torch_dtype_are_obeyed_silently(machine, monkeypatch):
    machine("avx2")
    said = []
    monkeypatch.setattr(dtypes.logger, "warning", said.append)
    assert resolve_dtype("bfloat16", "cpu") == BF16
    assert resolve_dtype("auto", "cpu") == BF16
    assert resolve_dtype(FP32, "cpu") == FP32
    assert said == []


@pytest.mark.parametrize("name", ["float8", "int8", "", None])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match="choose one of auto, bfloat16, float16, float32, float64"):
        resolve_dtype(name, "cpu")


def test_a_dtype_that_the_device_cannot_do_is_refused():
    expected = "dtype is float64, in which mps does not compute .*take auto, or float32"
    with pytest.raises(ValueError, match=expected):
        resolve_dtype(torch.float64, "mps")  # there is none here


def test_another_work_is_refused():
    expected = "work is 'sleep'; choose one of draft, batch, prefill, train"
    with pytest.raises(ValueError, match=expected):
        choose_dtype("cpu", "sleep")


def test_products_are_timed_without_touching_the_random_state():
    before = torch.get_rng_state()
    dtypes.product_seconds.cache_clear()
    assert dtypes.product_seconds(FP32, 1) > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def folder(tmp_path):
    tiny_target(dtype=FP32).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "asked, dtype", [("auto", BF16), ("stored", FP32), ("float64", torch.float64), (FP16, FP16)]
)
def test_a_target_opens_in_the_dtype_asked_for(machine, folder, asked, dtype):
    machine("avx512", "avx512_bf16")
    EMULATING[torch.float64, 1] = 100
    EMULATING[torch.float64, 8] = 100
    assert load_target(folder, dtype=asked)[0].dtype == dtype


def test_a_target_opens_by_its_work(machine, folder):
    machine("avx2")
    assert load_target(folder)[0].dtype == BF16
    assert load_target(folder, work="batch")[0].dtype == FP32
