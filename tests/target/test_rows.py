"""A row's states are those of the row alone, whatever else lies in its batch."""

import pytest
import torch
from tiny import tiny_head, tiny_target
from transformers import AutoModelForCausalLM as AnyCausalLM
from transformers import (
    BertConfig,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
)

from eagle_hf import Eagle3Trainer, Eagle3TrainingArguments, TreeConfig
from eagle_hf.data import capture_features
from eagle_hf.data.features.dataset import Features
from eagle_hf.target import changing_ropes, rope_limit, target_states
from eagle_hf.target.rope import ChangingRope, rows_read_together
from eagle_hf.training.acceptance import held_out_prompts
from eagle_hf.training.batches import TargetStates, collate, separate
from eagle_hf.training.sharding import check_read_at_once

LIMIT = 16  # original length of the RoPEs here
LENGTHS = (12, 40, 16, 30, 17, 40)
LAYERS = [1, 2, 3]
SIZES = dict(
    vocab_size=31,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    initializer_range=0.25,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    factor=4.0,
    short_factor=[1.0, 1.0, 1.0, 1.0],
    long_factor=[1.5, 2.0, 4.0, 8.0],
    original_max_position_embeddings=LIMIT,
)
DYNAMIC = dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)
DEFAULT = dict(rope_type="default", rope_theta=10000.0)


def seeded(config):
    """A random model of a config, in float64."""
    torch.manual_seed(0)
    model = AnyCausalLM.from_config(config, experts_implementation="eager")
    return model.double().eval()


def phi3():
    """A Phi-3 whose LongRoPE changes beyond LIMIT tokens."""
    config = Phi3Config(
        **SIZES,
        max_position_embeddings=64,
        original_max_position_embeddings=LIMIT,
        rope_parameters=dict(LONGROPE),
    )
    return seeded(config)


def dynamic():
    """A Llama of dynamic NTK."""
    return tiny_target(layers=4, max_position_embeddings=LIMIT, rope_parameters=dict(DYNAMIC))


def gemma3():
    """A Gemma 3 with windows, and dynamic NTK in the layers that have none."""
    config = Gemma3TextConfig(
        **SIZES,
        max_position_embeddings=LIMIT,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        rope_parameters={"sliding_attention": dict(DEFAULT), "full_attention": dict(DYNAMIC)},
    )
    return seeded(config)


def opt():
    """An OPT, whose learnt positions are counted from a mask where one is given."""
    return seeded(
        OPTConfig(
            vocab_size=31,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=64,
            init_std=0.25,
            pad_token_id=0,
        )
    )


def gpt2():
    """A GPT-2 with a table of positions."""
    config = GPT2Config(vocab_size=31, n_positions=64, n_embd=32, n_layer=4, n_head=4)
    config.initializer_range = 0.25
    return seeded(config)


def bloom():
    """A BLOOM with ALiBi."""
    return seeded(
        BloomConfig(vocab_size=31, hidden_size=32, n_layer=4, n_head=4, initializer_range=0.25)
    )


def mixtral():
    """A Mixtral, whose router picks experts for all tokens of a batch together."""
    config = MixtralConfig(**SIZES, num_local_experts=4, max_position_embeddings=64)
    return seeded(config)


CHANGING = {"longrope": phi3, "dynamic": dynamic, "dynamic in some layers": gemma3}
FAMILIES = CHANGING | {"opt": opt, "gpt2": gpt2, "bloom": bloom, "mixtral": mixtral}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def family(request):
    """A function that makes a model: one of each kind of position, and a mixture of experts."""
    return request.param


@pytest.fixture(params=CHANGING.values(), ids=CHANGING.keys())
def changing(request):
    """A function that makes a model whose RoPE changes with a text's length."""
    return request.param


def random_rows(lengths=LENGTHS):
    """Tokens of rows of these lengths."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 31, (length,), generator=generator) for length in lengths]


def examples_of(rows):
    """Training examples, every token of which is learnt."""
    examples = []
    for number, row in enumerate(rows):
        ids = row.tolist()
        examples.append({"id": f"c{number}", "input_ids": ids, "loss_mask": [1] * len(ids)})
    return examples


def states_alone(family, row):
    """(aux hidden states, final states) of a row that a fresh model reads, and nothing else."""
    hidden = family()(row[None], output_hidden_states=True).hidden_states
    return torch.cat([hidden[layer] for layer in LAYERS], dim=-1)[0], hidden[-1][0]


def close(found, wanted):
    """Whether states are equal up to rounding in float64."""
    return torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_states_of_a_batch_are_those_of_its_rows(family):
    rows = random_rows()
    aux, states = target_states(family(), rows, LAYERS)
    for row, own_aux, own_states in zip(rows, aux, states, strict=True):
        wanted_aux, wanted_states = states_alone(family, row)
        assert close(own_aux[: len(row)], wanted_aux)
        assert close(own_states[: len(row)], wanted_states)


@torch.no_grad()
@pytest.mark.parametrize("packing", [False, True])
def test_the_teacher_of_a_batch_is_that_of_its_rows(changing, packing):
    rows = random_rows()
    target = changing()
    batch = collate(examples_of(rows), packing)
    features = TargetStates(target, LAYERS, normaliser=True).run_target(batch)
    best = separate(batch | features, "best")
    states = separate(batch | features, "hidden_states")
    for row, own_best, own_states in zip(rows, best, states, strict=True):
        _, wanted = states_alone(changing, row)
        assert close(own_states, wanted)
        choices = target.lm_head(wanted).argmax(-1)
        assert torch.equal(own_best[1:-1], choices[1:-1])  # the first two tokens are never learnt


@torch.no_grad()
def test_a_row_does_not_remember_the_batch_before_it(changing):
    target = changing()
    target_states(target, random_rows((50,)), LAYERS)
    for row in random_rows():
        aux, _ = target_states(target, row[None], LAYERS)
        assert close(aux[0], states_alone(changing, row)[0])


@torch.no_grad()
def test_captured_states_are_those_of_the_rows(changing, tmp_path):
    rows = random_rows()
    capture_features(
        changing(),
        examples_of(rows),
        tmp_path,
        layer_ids=LAYERS,
        template_sha256="none",
        dtype="float32",
        progress=False,
    )
    stored = {example["id"]: example for example in Features(tmp_path)}
    for number, row in enumerate(rows):
        wanted = states_alone(changing, row)[1].float()
        found = stored[f"c{number}"]["hidden_states"]
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_models_of_fixed_frequencies_read_a_batch_at_once():
    target = tiny_target(layers=4)
    calls = []
    target.model.register_forward_pre_hook(lambda *_: calls.append(1))
    target_states(target, random_rows(), LAYERS)
    assert changing_ropes(target) == []
    assert calls == [1]


def test_rows_are_grouped_by_what_their_lengths_choose():
    two_sets = ChangingRope("longrope", 16)
    any_length = ChangingRope("dynamic", 16)
    assert rows_read_together([two_sets], LENGTHS) == [[0, 2], [1, 3, 4, 5]]
    assert rows_read_together([any_length], LENGTHS) == [[0, 2], [4], [3], [1, 5]]
    assert rows_read_together([], LENGTHS) == [[0, 1, 2, 3, 4, 5]]


def test_the_limit_of_a_rope_is_found_in_nested_parameters():
    assert rope_limit(gemma3()) == LIMIT
    assert rope_limit(tiny_target()) > 2**30


def test_a_tree_beyond_the_limit_of_some_layers_is_refused():
    target = gemma3()
    head = tiny_head(target)
    head.tree = TreeConfig(depth=2, top_k=2, nodes=4)
    with pytest.raises(ValueError, match="'dynamic' and max_length is 20, beyond its 16"):
        target.generate(random_rows((12,))[0][None], assistant_model=head, max_new_tokens=8)


def test_a_sharded_target_refuses_texts_that_take_several_forwards():
    check_read_at_once(phi3(), "fsdp2", LIMIT - 1)
    check_read_at_once(phi3(), None, 40)
    with pytest.raises(ValueError, match="up to 40 tokens.*max_length=15, or capture"):
        check_read_at_once(phi3(), "fsdp2", 40)


def test_prompts_that_cannot_be_answered_within_the_limit_are_not_tried(caplog):
    long, short = examples_of(random_rows((40, 12)))
    long["loss_mask"] = [0] * 30 + [1] * 10
    short["loss_mask"] = [0] * 5 + [1] * 7
    assert held_out_prompts([long, short], 2, longest=8) == [short["input_ids"][:5]]
    with pytest.raises(ValueError, match="1 are longer than 8 tokens.*eval_prompts=0"):
        held_out_prompts([long], 1, longest=8)


def test_an_encoder_whose_rows_padding_would_change_is_refused(tmp_path):
    bert = seeded(BertConfig(**SIZES, max_position_embeddings=64))
    message = "BertLMHeadModel has no list of layers.*decoder-only causal LM"
    with pytest.raises(ValueError, match=message):
        capture_features(
            bert, examples_of(random_rows()), tmp_path, layer_ids=LAYERS, template_sha256="none"
        )
    head = tiny_head(bert, 24)
    arguments = Eagle3TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=message):
        Eagle3Trainer(head, bert, arguments, examples_of(random_rows()))
