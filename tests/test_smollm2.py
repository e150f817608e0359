"""The promises on a real model: SmolLM2-135M-Instruct in float32, three heads, four settings.

A difference counts unless the plain run stood within 1e-4 of choosing otherwise; such ties are counted and printed.
"""

import copy
import os
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

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
from eagle_hf.data.suites import first_turn_ids, load_suite
from eagle_hf.decoding import loop
from eagle_hf.evaluation.equality import first_difference
from eagle_hf.measuring.costs import measure_costs
from eagle_hf.planning.calibration import Calibration
from eagle_hf.quickstart import REFERENCE
from eagle_hf.target.gguf import embedded_smollm2

SETTINGS = {
    "greedy": dict(do_sample=False),
    "sampled": dict(do_sample=True, temperature=1.0, top_k=0),
    "processed": dict(do_sample=True, temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.1),
    "constrained": dict(do_sample=False, no_repeat_ngram_size=3, min_new_tokens=40),
}
NEW = 48


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    """Unless another process of this test run needs the second core."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def smollm2():
    return load_target("smollm2", dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts():
    return load_suite(per_category=17)[:50]


@pytest.fixture(scope="module")
def heads():
    """The head in model_cards, one that never learnt anything and its adversary."""
    trained = Eagle3DraftHead.from_pretrained(REFERENCE, dtype=torch.float32)
    made = {}
    for name in ("untrained", "adversarial"):
        torch.manual_seed(0)
        made[name] = Eagle3DraftHead(copy.deepcopy(trained.config)).eval()
        made[name].set_draft_vocabulary(trained.draft_to_target)
    with torch.no_grad():
        made["adversarial"].lm_head.weight.neg_()
    made["trained"] = trained
    for head in made.values():
        head.tree = TreeConfig(depth=3, top_k=3, nodes=6)
    return made


def compare(smollm2, heads, prompts, setting):
    """Generations that differ without being a tie; the heads take turns; ties and totals are printed."""
    target, tokenizer = smollm2
    wrong, ties, rounds, tokens = [], 0, dict.fromkeys(heads, 0), dict.fromkeys(heads, 0)
    for number, prompt in enumerate(prompts):
        name, head = list(heads.items())[number % len(heads)]
        inputs = first_turn_ids(tokenizer, prompt)
        torch.manual_seed(1)
        plain = target.generate(
            **inputs,
            max_new_tokens=NEW,
            return_dict_in_generate=True,
            output_scores=True,
            **setting,
        )
        torch.manual_seed(1)
        fast = target.generate(**inputs, max_new_tokens=NEW, assistant_model=head, **setting)
        difference = first_difference(plain, fast, 1 if setting["do_sample"] else None)
        rounds[name], tokens[name] = (
            rounds[name] + head.last_run.rounds,
            tokens[name] + head.last_run.tokens,
        )
        if difference is not None:
            print(f"{prompt['id']}, {name}: {difference}")
            ties += difference.is_tie
            wrong += [] if difference.is_tie else [(prompt["id"], name, difference)]
    taus = {name: round(tokens[name] / rounds[name], 2) for name in heads}
    print(f"{len(prompts)} generations, {ties} ties, tau {taus}")
    return wrong, ties


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_prompt_equals_the_target_alone(smollm2, heads, prompts, setting):
    number = list(SETTINGS).index(setting)
    wrong, ties = compare(
        smollm2, {"trained": heads["trained"]}, prompts[12 * number :][:1], SETTINGS[setting]
    )
    assert wrong == []
    assert ties == 0


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_nine_prompts_equal_the_target_alone(smollm2, heads, prompts, setting):
    wrong, ties = compare(smollm2, heads, prompts[::6], SETTINGS[setting])
    assert wrong == []
    assert ties <= 1


@pytest.mark.long
@pytest.mark.parametrize("setting", SETTINGS)
def test_fifty_prompts_equal_the_target_alone(smollm2, heads, prompts, setting):
    wrong, ties = compare(smollm2, heads, prompts, SETTINGS[setting])
    assert wrong == [] and ties <= 1  # at most 1 in 1,000 generations; 200 are made in all


def batch_of(tokenizer, prompts):
    """Left-padded prompts of different lengths."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p["turns"][0]}], add_generation_prompt=True, tokenize=False
        )
        for p in prompts
    ]
    return tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")


def check_batches(smollm2, heads, prompts, greedy=("greedy", "constrained")):
    """Batches of four, both greedy settings, the heads in turn; a row may part only at a tie, which is printed."""
    target, tokenizer = smollm2
    for number in range(len(prompts) // 4):
        inputs = batch_of(tokenizer, prompts[4 * number : 4 * number + 4])
        assert len(set(inputs["attention_mask"].sum(1).tolist())) > 1
        for turn, setting in enumerate(greedy):
            settings, head = (
                SETTINGS[setting] | {"max_new_tokens": NEW},
                list(heads.values())[(number + turn) % len(heads)],
            )
            plain = target.generate(
                **inputs, return_dict_in_generate=True, output_scores=True, **settings
            )
            fast = target.generate(**inputs, assistant_model=head, **settings)
            for row in range(4):
                alone = SimpleNamespace(
                    sequences=plain.sequences[row : row + 1],
                    scores=[step[row : row + 1] for step in plain.scores],
                )
                difference = first_difference(alone, fast[row : row + 1])
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


def ways(target, head):
    """Every drafter and policy: assistants by name, heads with a tree of their own."""
    costs = measure_costs(
        target, head, batches=[1, 4], lengths=[100], tokens=[1, 4, 8], widths=[1, 4], repeats=1
    )
    plan = Plan(costs, ((0.6, 0.2, 0.1, 0.05), (0.5, 0.2, 0.1, 0.05)), Calibration())
    trees = {
        "chain": TreeConfig("chain", depth=3),
        "dynamic": TreeConfig(depth=3, top_k=3, nodes=6),
        "compiled": TreeConfig(depth=3, top_k=3, nodes=6, compile=True),
        "fixed shape": TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 3), ranks=(0, 0, 1, 0, 1, 0)),
        "sequoia": TreeConfig("sequoia", depth=3, top_k=4, nodes=7),
        "adaptive": TreeConfig("adaptive", depth=3, top_k=4, nodes=7),
    }
    made = {name: copy.copy(head) for name in trees}
    for name, one in made.items():
        one.config, one.plan = copy.deepcopy(head.config), plan
        one.tree = trees[name]
    made["head behind a window"] = copy.copy(head)
    made["head behind a window"].config = copy.deepcopy(head.config)
    made["head behind a window"].window = (4, 40)
    return made | {
        "itself": SelfSpeculation(4, 60, 3),
        "itself, SnapKV": SelfSpeculation(window=40, snapkv=24, gamma=3),
        "model": WindowedDraft(target, 4, 60, 3),
    }


@pytest.mark.slow
def test_batches_with_every_drafter_and_policy_equal_the_target_alone(smollm2, heads, prompts):
    for name, assistant in ways(smollm2[0], heads["trained"]).items():
        check_batches(smollm2, {name: assistant}, prompts[::13][:4], ["constrained"])
        print(f"{name}: tau {assistant.last_run.tau:.2f}")
        assert assistant.last_run.rounds > 0


def test_the_trained_head_gets_drafts_accepted_on_a_real_model(smollm2, heads, prompts):
    (target, tokenizer), stats = smollm2, DecodingStats(rows=0)
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
    worst, original = [], loop.Run.round

    def checked(run):
        original(run)
        ids = run.sequences.ids[:, : run.sequences.lengths[0] - 1]
        fresh, _ = take_cache(target(ids, use_cache=True))
        for ours, theirs in zip(run.cache.layers, fresh.layers):
            for name in ("keys", "values"):
                truth = getattr(theirs, name)
                worst.append(float((getattr(ours, name) - truth).norm() / truth.norm()))

    monkeypatch.setattr(loop.Run, "round", checked)
    target.generate(
        **first_turn_ids(tokenizer, prompts[0]),
        max_new_tokens=24,
        do_sample=False,
        assistant_model=heads["trained"],
    )
    print(f"largest relative norm {max(worst):.1e}")
    assert max(worst) < 5e-6


@pytest.mark.slow
def test_a_round_costs_little_besides_the_forwards(smollm2, heads, prompts):
    target, tokenizer = smollm2
    head = heads["trained"]
    before, head.tree = head.tree, TreeConfig(depth=4, top_k=4, nodes=16)
    rounds, shares = [], []
    for prompt in prompts[:3]:
        target.generate(
            **first_turn_ids(tokenizer, prompt),
            max_new_tokens=NEW,
            do_sample=False,
            assistant_model=head,
        )
        rounds.append(1000 * head.last_run.overhead)
        shares.append(head.last_run.overhead_share)
    head.tree = before
    print(f"milliseconds a round besides the forwards of target and head: {sorted(rounds)}")
    assert sorted(rounds)[1] <= 10 and sorted(shares)[1] <= 0.08


@pytest.mark.slow
def test_the_gguf_file_opens_as_the_converted_folder_does(smollm2):
    file = embedded_smollm2()
    options = {"gguf_file": file.name, "dtype": torch.float32}
    unpacked = AutoModelForCausalLM.from_pretrained(file.parent, **options)
    target, tokenizer = load_target(file, dtype=torch.float32)
    ids = first_turn_ids(tokenizer, {"turns": ["What is a prime number?"]})["input_ids"]
    assert torch.equal(target(ids).logits, unpacked(ids).logits)
    assert target.name_or_path == smollm2[0].name_or_path
