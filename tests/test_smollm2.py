"""The promises on a real model: SmolLM2-135M-Instruct in float32, three heads, four settings.

A difference counts as wrong unless the plain run stood within 1e-4 of choosing otherwise. Such ties
are counted and printed.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BatchEncoding

from eagle_hf import (
    DecodingStats,
    Eagle3DraftHead,
    Plan,
    SelfSpeculation,
    TreeConfig,
    WindowedDraft,
    load_target,
)
from eagle_hf.compat import take_cache
from eagle_hf.data.prompts.suites import first_turn_ids, load_suite
from eagle_hf.decoding import loop
from eagle_hf.evaluation.equality import Difference, first_difference
from eagle_hf.measuring.costs import measure_costs
from eagle_hf.planning.calibration import Calibration
from eagle_hf.quickstart import REFERENCE
from eagle_hf.target.gguf import embedded_smollm2

pytestmark = pytest.mark.usefixtures("fixed_sizes")

SETTINGS = {
    "greedy": dict(do_sample=False),
    "sampled": dict(do_sample=True, temperature=1.0, top_k=0),
    "processed": dict(do_sample=True, temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.1),
    "constrained": dict(do_sample=False, no_repeat_ngram_size=3, min_new_tokens=40),
}
NEW = 48  # tokens of each answer


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    """Two threads, unless another process of this test run needs the second core."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    """(target, tokenizer)."""
    return load_target("smollm2", dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts() -> list[dict]:
    return load_suite(per_category=17)[:50]


@pytest.fixture(scope="module")
def heads() -> dict[str, Eagle3DraftHead]:
    """The head in model_cards, a head that never learnt anything, and an adversary.

    The adversary prefers what an untrained head holds least likely.
    """
    trained = Eagle3DraftHead.from_pretrained(REFERENCE, dtype=torch.float32)
    untrained = untrained_head(trained)
    adversarial = untrained_head(trained)
    with torch.no_grad():
        adversarial.lm_head.weight.neg_()
    made = {"untrained": untrained, "adversarial": adversarial, "trained": trained}
    for head in made.values():
        head.tree = TreeConfig(depth=3, top_k=3, nodes=6)
    return made


def untrained_head(like: Eagle3DraftHead) -> Eagle3DraftHead:
    """A head with the configuration and the draft vocabulary of another, and random weights."""
    torch.manual_seed(0)
    head = Eagle3DraftHead(copy.deepcopy(like.config)).eval()
    head.set_draft_vocabulary(like.draft_to_target)
    return head


@dataclass
class Comparison:
    """Generations that differ from the target alone: errors by prompt and head, and ties."""

    wrong: list[tuple[str, str, Difference]] = field(default_factory=list)
    ties: int = 0

    def add(self, prompt_id: str, name: str, difference: Difference | None) -> None:
        if difference is None:
            return
        print(f"{prompt_id}, {name}: {difference}")
        if difference.is_tie:
            self.ties += 1
        else:
            self.wrong.append((prompt_id, name, difference))


def compare(
    smollm2: tuple[Any, Any],
    heads: dict[str, Eagle3DraftHead],
    prompts: Sequence[dict],
    setting: dict[str, Any],
) -> Comparison:
    """Generate for each prompt with and without a head. The heads take turns."""
    target, tokenizer = smollm2
    found = Comparison()
    names = list(heads)
    stats = {name: DecodingStats(rows=0) for name in names}
    for number, prompt in enumerate(prompts):
        name = names[number % len(names)]
        options = {**first_turn_ids(tokenizer, prompt), **setting, "max_new_tokens": NEW}
        torch.manual_seed(1)
        plain = target.generate(**options, return_dict_in_generate=True, output_scores=True)
        torch.manual_seed(1)
        fast = target.generate(**options, assistant_model=heads[name])
        stats[name] += heads[name].last_run
        seed = 1 if setting["do_sample"] else None
        found.add(prompt["id"], name, first_difference(plain, fast, seed))
    taus = {name: round(stats[name].tau, 2) for name in names}
    print(f"{len(prompts)} generations, {found.ties} ties, tau {taus}")
    return found


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_prompt_equals_the_target_alone(smollm2, heads, prompts, setting):
    number = list(SETTINGS).index(setting)
    prompt = prompts[12 * number]
    found = compare(smollm2, {"trained": heads["trained"]}, [prompt], SETTINGS[setting])
    assert found.wrong == []
    assert found.ties == 0


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_six_prompts_equal_the_target_alone(smollm2, heads, prompts, setting):
    found = compare(smollm2, heads, prompts[::9], SETTINGS[setting])
    assert found.wrong == []
    assert found.ties <= 1


@pytest.mark.long
@pytest.mark.parametrize("setting", SETTINGS)
def test_fifty_prompts_equal_the_target_alone(smollm2, heads, prompts, setting):
    found = compare(smollm2, heads, prompts, SETTINGS[setting])
    assert found.wrong == []
    assert found.ties <= 1  # at most 1 in 1,000 generations; 200 are made in all


def left_padded_batch(tokenizer: Any, prompts: Sequence[dict]) -> BatchEncoding:
    """The first turns of these prompts, left-padded to one length."""
    texts = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt["turns"][0]}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        texts.append(text)
    return tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")


def one_row(plain: Any, row: int) -> SimpleNamespace:
    """A row of what `generate` returned for a batch, as if it had been alone in it."""
    return SimpleNamespace(
        sequences=plain.sequences[row : row + 1],
        scores=[step[row : row + 1] for step in plain.scores],
    )


def check_batches(
    smollm2: tuple[Any, Any],
    assistants: dict[str, Any],
    prompts: Sequence[dict],
    greedy: Sequence[str] = ("greedy", "constrained"),
) -> None:
    """Assert that batches of four equal the target alone. The assistants take turns.

    A row may differ only at a tie, which is printed.

    Args:
        smollm2: (target, tokenizer).
        assistants: What drafts, by name.
        prompts: A multiple of four of them.
        greedy: The names of greedy settings.
    """
    target, tokenizer = smollm2
    drafters = list(assistants.values())
    for number in range(len(prompts) // 4):
        inputs = left_padded_batch(tokenizer, prompts[4 * number : 4 * number + 4])
        lengths = inputs["attention_mask"].sum(1).tolist()
        assert len(set(lengths)) > 1
        for turn, setting in enumerate(greedy):
            options = {**inputs, **SETTINGS[setting], "max_new_tokens": NEW}
            plain = target.generate(**options, return_dict_in_generate=True, output_scores=True)
            assistant = drafters[(number + turn) % len(drafters)]
            fast = target.generate(**options, assistant_model=assistant)
            for row in range(4):
                difference = first_difference(one_row(plain, row), fast[row : row + 1])
                if difference is not None:
                    print(f"batch {number}, row {row}, {setting}: {difference}")
                    assert difference.is_tie


def test_a_greedy_batch_of_four_lengths_equals_the_target_alone(smollm2, heads, prompts):
    check_batches(smollm2, {"trained": heads["trained"]}, prompts[::13][:4], ["greedy"])


@pytest.mark.slow
def test_three_batches_of_four_lengths_equal_the_target_alone(smollm2, heads, prompts):
    check_batches(smollm2, heads, prompts[::4][:12])


@pytest.mark.long
def test_greedy_batches_of_four_lengths_equal_the_target_alone(smollm2, heads, prompts):
    check_batches(smollm2, heads, prompts[:48])


TREES = {
    "chain": TreeConfig("chain", depth=3),
    "dynamic": TreeConfig(depth=3, top_k=3, nodes=6),
    "compiled": TreeConfig(depth=3, top_k=3, nodes=6, compile=True),
    "fixed shape": TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 3), ranks=(0, 0, 1, 0, 1, 0)),
    "sequoia": TreeConfig("sequoia", depth=3, top_k=4, nodes=7),
    "adaptive": TreeConfig("adaptive", depth=3, top_k=4, nodes=7),
}


def make_assistants(target: Any, head: Eagle3DraftHead) -> dict[str, Any]:
    """One assistant of every kind and policy, by name. Those that are heads share the weights."""
    costs = measure_costs(
        target, head, batches=[1, 4], lengths=[100], tokens=[1, 4, 8], widths=[1, 4], repeats=1
    )
    plan = Plan(costs, ((0.6, 0.2, 0.1, 0.05), (0.5, 0.2, 0.1, 0.05)), Calibration())
    made: dict[str, Any] = {}
    for name, tree in TREES.items():
        made[name] = with_own_config(head)
        made[name].plan = plan
        made[name].tree = tree
    windowed = with_own_config(head)
    windowed.window = (4, 40)
    made["head behind a window"] = windowed
    made["itself"] = SelfSpeculation(4, 60, 3)
    made["itself, SnapKV"] = SelfSpeculation(window=40, snapkv=24, gamma=3)
    made["model"] = WindowedDraft(target, 4, 60, 3)
    return made


def with_own_config(head: Eagle3DraftHead) -> Eagle3DraftHead:
    """A head with the weights of another, and settings of its own."""
    own = copy.copy(head)
    own.config = copy.deepcopy(head.config)
    return own


@pytest.mark.slow
def test_batches_with_every_drafter_and_policy_equal_the_target_alone(smollm2, heads, prompts):
    for name, assistant in make_assistants(smollm2[0], heads["trained"]).items():
        check_batches(smollm2, {name: assistant}, prompts[::13][:4], ["constrained"])
        print(f"{name}: tau {assistant.last_run.tau:.2f}")
        assert assistant.last_run.rounds > 0


def test_the_trained_head_gets_drafts_accepted_on_a_real_model(smollm2, heads, prompts):
    target, tokenizer = smollm2
    stats = DecodingStats(rows=0)
    for prompt in prompts[::18][:3]:
        target.generate(
            **first_turn_ids(tokenizer, prompt),
            max_new_tokens=NEW,
            do_sample=False,
            assistant_model=heads["trained"],
        )
        stats += heads["trained"].last_run
    assert stats.tau > 1.5


def test_after_every_round_the_cache_equals_a_fresh_prefill(smollm2, heads, prompts, monkeypatch):
    target, tokenizer = smollm2
    run_round = loop.Run.round
    distances = []

    def round_and_compare(run: loop.Run) -> None:
        run_round(run)
        ids = run.sequences.ids[
            :, : run.sequences.lengths[0] - 1
        ]  # the newest token is in no cache yet
        fresh, _ = take_cache(target(ids, use_cache=True))
        for ours, theirs in zip(run.cache.layers, fresh.layers, strict=True):
            distances.append(relative_distance(ours.keys, theirs.keys))
            distances.append(relative_distance(ours.values, theirs.values))

    monkeypatch.setattr(loop.Run, "round", round_and_compare)
    target.generate(
        **first_turn_ids(tokenizer, prompts[0]),
        max_new_tokens=24,
        do_sample=False,
        assistant_model=heads["trained"],
    )
    print(f"largest relative norm {max(distances):.1e}")
    assert max(distances) < 5e-6


def relative_distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


@pytest.mark.slow
def test_a_round_costs_little_besides_the_forwards(smollm2, heads, prompts):
    target, tokenizer = smollm2
    head = with_own_config(heads["trained"])
    head.tree = TreeConfig(depth=4, top_k=4, nodes=16)
    milliseconds, shares = [], []
    for prompt in prompts[:3]:
        target.generate(
            **first_turn_ids(tokenizer, prompt),
            max_new_tokens=NEW,
            do_sample=False,
            assistant_model=head,
        )
        milliseconds.append(1000 * head.last_run.overhead)
        shares.append(head.last_run.overhead_share)
    print(f"milliseconds a round besides the forwards of target and head: {sorted(milliseconds)}")
    assert sorted(milliseconds)[1] <= 10
    assert sorted(shares)[1] <= 0.08


@pytest.mark.slow
def test_the_gguf_file_opens_as_the_converted_folder_does(smollm2):
    file = embedded_smollm2()
    options = {"gguf_file": file.name, "dtype": torch.float32}
    unpacked = AutoModelForCausalLM.from_pretrained(file.parent, **options)
    target, tokenizer = load_target(file, dtype=torch.float32)
    ids = first_turn_ids(tokenizer, {"turns": ["What is a prime number?"]})["input_ids"]
    assert torch.equal(target(ids).logits, unpacked(ids).logits)
    assert target.name_or_path == smollm2[0].name_or_path
