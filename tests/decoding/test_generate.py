"""What users of generate rely on: stopping, scores, streamers, statistics, cache, distribution."""

import asyncio
import copy
import threading
from collections import Counter

import pytest
import torch
from tiny import left_padded, quickly_trained, tiny_head, tiny_target, word_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import (
    AsyncTextIteratorStreamer,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
)

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.compat import GENERATE_CACHE, take_cache
from eagle_hf.decoding import loop, verifier, verify


@pytest.fixture(scope="module")
def tokenizer(target):
    return word_tokenizer(target.config.vocab_size)


def equal(target, head, inputs, **kwargs):
    plain = target.generate(**inputs, **kwargs)
    fast = target.generate(**inputs, assistant_model=head, **kwargs)
    assert torch.equal(plain, fast)
    return fast


def test_several_eos_ids_end_a_row(target, trained_head):
    inputs = left_padded(target, [7, 4, 9])
    out = equal(
        target, trained_head, inputs, max_new_tokens=120, eos_token_id=[5, 11, 17], do_sample=False
    )
    ends = [[t for t in row.tolist()[9:] if t] for row in out]
    assert any(len(row) < 120 for row in ends) and all(
        set(row[:-1]).isdisjoint({5, 11, 17}) for row in ends
    )


def letter_tokenizer():
    """Tokens 5 to 30 are the letters a to z."""
    words = {"<0>": 0, "<1>": 1, "<2>": 2, "<3>": 3, "<4>": 4} | {
        chr(ord("a") + i): 5 + i for i in range(26)
    }
    inner = Tokenizer(models.BPE(vocab=words, merges=[]))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<2>", pad_token="<0>")


@pytest.mark.parametrize("assistant", ["head", "window", "itself"])
def test_finished_rows_cost_nothing(target, trained_head, assistant):
    """They leave the batch of target and drafter, and the others go on as if they had never been there."""
    assistant = {
        "head": trained_head,
        "window": WindowedDraft(target, 2, 9),
        "itself": SelfSpeculation(2, 9),
    }[assistant]
    batches, inputs = [], left_padded(target, [7, 4, 9, 12])
    hook = target.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    ids = target.generate(
        **inputs,
        assistant_model=assistant,
        max_new_tokens=120,
        eos_token_id=[5, 11, 17],
        do_sample=False,
    )
    ends = sorted((row[12:] != 0).sum().item() for row in ids)
    assert (
        batches[0] == 4
        and batches == sorted(batches, reverse=True)
        and len(set(batches)) == len(set(ends)) > 1
    )
    hook.remove()
    assert torch.equal(
        ids,
        target.generate(**inputs, max_new_tokens=120, eos_token_id=[5, 11, 17], do_sample=False),
    )


def test_a_stop_string_ends_the_text(target, trained_head):
    inputs, tokenizer = left_padded(target, [7]), letter_tokenizer()
    settings = dict(max_new_tokens=60, eos_token_id=None, do_sample=False)
    text = tokenizer.decode(target.generate(**inputs, **settings)[0, 7:])
    out = equal(
        target, trained_head, inputs, **settings, stop_strings=[text[20:22]], tokenizer=tokenizer
    )
    assert out.shape[1] < 7 + 60 and tokenizer.decode(out[0]).endswith(text[20:22])


@pytest.mark.parametrize("offset", [5, 50])
def test_positions_of_the_users_own_are_kept(target, trained_head, offset):
    inputs = left_padded(target, [12]) | {"position_ids": torch.arange(12)[None] + offset}
    equal(target, trained_head, inputs, max_new_tokens=30, do_sample=False, eos_token_id=None)


@pytest.mark.parametrize("new", [1, 2, 3])
def test_very_few_new_tokens(target, trained_head, new):
    out = equal(
        target, trained_head, left_padded(target, [7, 3]), max_new_tokens=new, eos_token_id=None
    )
    assert out.shape[1] == 7 + new
    assert trained_head.last_run.tokens == 2 * (new - 1)  # the prefill's token belongs to no round


def test_a_prompt_longer_than_any_in_training(target, trained_head):
    equal(
        target,
        trained_head,
        left_padded(target, [400]),
        max_new_tokens=40,
        eos_token_id=None,
        do_sample=False,
    )


def test_a_stopping_criterion_of_the_users_sees_every_token(target, trained_head):
    class At(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 31)

    out = equal(
        target,
        trained_head,
        left_padded(target, [7]),
        max_new_tokens=90,
        eos_token_id=None,
        stopping_criteria=[At()],
    )
    assert out.shape[1] == 31


def test_scores_and_logits_are_the_plain_runs(target, trained_head):
    wanted = dict(
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        repetition_penalty=1.1,
        max_new_tokens=40,
        eos_token_id=None,
    )
    inputs = left_padded(target, [7])
    plain, fast = (
        target.generate(**inputs, assistant_model=a, **wanted) for a in (None, trained_head)
    )
    assert (
        torch.equal(plain.sequences, fast.sequences) and len(plain.scores) == len(fast.scores) == 40
    )
    for name in ("scores", "logits"):
        for a, b in zip(getattr(plain, name), getattr(fast, name)):
            assert a.shape == b.shape and torch.allclose(a, b, atol=1e-5)
    assert take_cache(fast)[0].get_seq_length() == take_cache(plain)[0].get_seq_length()


def test_the_returned_cache_can_be_cropped_and_gone_on_with(target, trained_head):
    inputs = left_padded(target, [7])
    out = target.generate(
        **inputs,
        assistant_model=trained_head,
        max_new_tokens=20,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    cache, _ = take_cache(out)
    cache.crop(-5)
    assert cache.get_seq_length() == 26 - 5
    logits = target(out.sequences[:, 21:], **{GENERATE_CACHE: cache}).logits
    assert torch.allclose(logits, target(out.sequences).logits[:, 21:], atol=1e-6)


def test_a_head_that_breaks_down_changes_nothing(target):
    head = tiny_head(target)
    with torch.no_grad():
        head.lm_head.weight[::3] = torch.nan
    equal(
        target,
        head,
        left_padded(target, [7, 4]),
        max_new_tokens=40,
        eos_token_id=None,
        do_sample=False,
    )


def test_two_threads_may_generate_on_one_target(target):
    heads, lengths, outputs = [tiny_head(target) for _ in range(2)], [7, 12], {}

    def answer(row):
        for _ in range(3):
            outputs[row] = target.generate(
                **left_padded(target, [lengths[row]]),
                assistant_model=heads[row],
                max_new_tokens=40,
                eos_token_id=None,
            )

    threads = [threading.Thread(target=answer, args=(row,)) for row in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row, length in enumerate(lengths):
        plain = target.generate(
            **left_padded(target, [length]), max_new_tokens=40, eos_token_id=None
        )
        assert torch.equal(outputs[row], plain)


def test_two_threads_on_one_head_leave_whole_statistics(target, trained_head):
    """last_run is replaced at once: never a mixture of two runs."""
    inputs, alone = [left_padded(target, [length]) for length in (7, 12)], []
    for one in inputs:
        target.generate(**one, assistant_model=trained_head, max_new_tokens=60, eos_token_id=None)
        alone.append(
            (
                trained_head.last_run.rounds,
                trained_head.last_run.tokens,
                trained_head.last_run.accepted,
            )
        )
    for _ in range(3):
        settings = dict(assistant_model=trained_head, max_new_tokens=60, eos_token_id=None)
        threads = [
            threading.Thread(target=target.generate, kwargs=one | settings) for one in inputs
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run = trained_head.last_run
        assert (run.rounds, run.tokens, run.accepted) in alone


class Recorder(TextStreamer):
    def put(self, value):
        self.parts.append(value.flatten().tolist())

    def end(self):
        self.parts.append("end")


def test_streamed_tokens_arrive_each_round_in_order_and_never_past_the_end(
    target, trained_head, tokenizer
):
    streamer = Recorder(tokenizer)
    streamer.parts = []
    inputs = left_padded(target, [7])
    out = target.generate(
        **inputs,
        assistant_model=trained_head,
        max_new_tokens=80,
        eos_token_id=[5],
        streamer=streamer,
    )
    assert streamer.parts[-1] == "end" and sum(streamer.parts[:-1], []) == out[0].tolist()
    assert (
        len(streamer.parts) == 3 + trained_head.last_run.rounds
    )  # the prompt, the first token, a part a round, the end


def test_text_iterator_streamer_gives_the_whole_text(target, trained_head, tokenizer):
    streamer, inputs = TextIteratorStreamer(tokenizer, skip_prompt=True), left_padded(target, [7])
    settings = dict(
        inputs,
        assistant_model=trained_head,
        max_new_tokens=50,
        eos_token_id=None,
        streamer=streamer,
    )
    thread = threading.Thread(target=target.generate, kwargs=settings)
    thread.start()
    text = "".join(streamer)
    thread.join()
    plain = target.generate(**inputs, max_new_tokens=50, eos_token_id=None)
    assert text.split() == tokenizer.decode(plain[0, 7:]).split()


def test_async_text_iterator_streamer_gives_the_whole_text(target, trained_head, tokenizer):
    inputs = left_padded(target, [7])

    async def collect():
        streamer = AsyncTextIteratorStreamer(tokenizer, skip_prompt=True)
        settings = dict(
            inputs,
            assistant_model=trained_head,
            max_new_tokens=50,
            eos_token_id=None,
            streamer=streamer,
        )
        thread = threading.Thread(target=target.generate, kwargs=settings)
        thread.start()
        parts = [part async for part in streamer]
        thread.join()
        return parts

    parts, plain = (
        asyncio.run(collect()),
        target.generate(**inputs, max_new_tokens=50, eos_token_id=None),
    )
    assert len(parts) > 5 and "".join(parts).split() == tokenizer.decode(plain[0, 7:]).split()


def test_two_calls_under_one_seed_match(target, trained_head):
    inputs, runs = left_padded(target, [7, 5]), []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(
            target.generate(
                **inputs, assistant_model=trained_head, do_sample=True, max_new_tokens=40
            )
        )
    assert torch.equal(*runs)


def test_last_run_counts_add_up(target, trained_head):
    target.generate(
        **left_padded(target, [7]),
        assistant_model=trained_head,
        max_new_tokens=60,
        eos_token_id=None,
    )
    run = trained_head.last_run
    assert run.tokens == 59 and run.tau == run.tokens / run.rounds
    assert (
        run.rounds - 1 <= run.trials[0] <= run.rounds
    )  # the last round may have had no room for drafts
    assert all(later <= kept for later, kept in zip(run.trials[1:], run.accepted))
    assert (
        set(run.seconds) == {"prefill", "target", "head", "draft", "accept", "commit"}
        and min(run.seconds.values()) > 0
    )


def test_after_every_round_the_cache_equals_a_fresh_prefill(target, trained_head, monkeypatch):
    worst, rounds, original = 0.0, 0, loop.Run.round

    def checked(run):
        nonlocal worst, rounds
        original(run)
        rounds += 1
        for place, row in enumerate(run.sequences.in_batch):
            seen, length = run.masks.visible[place], run.sequences.lengths[row]
            ids = run.sequences.ids[row]
            ids = torch.cat([ids[: len(seen)][seen], ids[len(seen) : length - 1]])[None]
            fresh, _ = take_cache(target(ids, use_cache=True))
            for ours, theirs in zip(run.cache.layers, fresh.layers):
                for name in ("keys", "values"):
                    kept = torch.cat(
                        [
                            getattr(ours, name)[place, :, : len(seen)][:, seen],
                            getattr(ours, name)[place, :, len(seen) : length - 1],
                        ],
                        1,
                    )
                    truth = getattr(theirs, name)[0]
                    worst = max(worst, float((kept - truth).norm() / truth.norm()))

    monkeypatch.setattr(loop.Run, "round", checked)
    target.generate(
        **left_padded(target, [7, 3, 11]),
        assistant_model=trained_head,
        max_new_tokens=40,
        eos_token_id=None,
    )
    assert rounds > 10 and worst < 1e-10


# --- batched sampling: the distribution -----------------------------------------------------------------------------

SAMPLING = dict(do_sample=True, temperature=0.8, top_k=4, max_new_tokens=3, min_new_tokens=3)


def test_batched_sampling_on_a_larger_vocabulary_follows_the_distribution(target, trained_head):
    prompt, counts, runs = [3, 4, 5, 6], Counter(), 60
    batch = {
        "input_ids": torch.tensor([prompt] * 16),
        "attention_mask": torch.ones(16, 4, dtype=torch.long),
    }
    torch.manual_seed(0)
    for _ in range(runs):
        out = target.generate(
            **batch,
            assistant_model=trained_head,
            do_sample=True,
            top_k=0,
            max_new_tokens=3,
            eos_token_id=None,
        )
        counts.update(tuple(row) for row in out[:, 4:6].tolist())
    first = target(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    second = (
        target(torch.tensor([prompt + [token] for token in range(31)])).logits[:, -1].softmax(-1)
    )
    expected = {(a, b): float(first[a] * second[a, b]) for a in range(31) for b in range(31)}
    assert chi_square_p(counts, expected, 16 * runs) > 1e-3


@pytest.fixture(scope="module")
def tiny_vocabulary():
    target = tiny_target(vocab_size=6, initializer_range=0.15)
    head = quickly_trained(target, tiny_head(target, draft_vocab_size=5), steps=60)
    head.tree = TreeConfig(depth=2, top_k=3, nodes=6)
    return target, head


def enumerated(target, prompt):
    """Probability of every three-token continuation under SAMPLING, by enumeration."""
    chances = {(): 1.0}
    for step in range(3):
        longer = {}
        for tokens, chance in chances.items():
            ids = torch.tensor([prompt + list(tokens)])
            logits = target(ids).logits[0, -1].float().detach()
            logits[2] = -torch.inf  # no EOS before min_new_tokens
            logits = logits / 0.8
            logits[logits < logits.topk(4).values[-1]] = -torch.inf
            for token, p in enumerate(logits.softmax(-1).tolist()):
                if p:
                    longer[tokens + (token,)] = chance * p
        chances = longer
    return chances


def chi_square_p(observed, expected, total):
    """P value of counts against expected shares; cells below 5 expected counts are pooled."""
    cells, rest = [], [0.0, 0.0]
    for key, share in expected.items():
        pair = [observed[key], share * total]
        if pair[1] >= 5:
            cells.append(pair)
        else:
            rest = [rest[0] + pair[0], rest[1] + pair[1]]
    cells += [rest] if rest[1] else []
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    return float(
        torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2.0), torch.tensor(statistic / 2.0))
    )


def sampled_p(target, head, runs=60):
    prompt, counts = [3, 4, 5], Counter()
    batch = {
        "input_ids": torch.tensor([[0, 0] + prompt, [3, 5, 4, 4, 3]] * 16),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1] * 5] * 16),
    }
    torch.manual_seed(0)
    for _ in range(runs):
        out = target.generate(**batch, assistant_model=head, **SAMPLING)
        counts.update(tuple(row) for row in out[::2, 5:].tolist())
    return chi_square_p(counts, enumerated(target, prompt), 16 * runs), counts


def test_batched_sampling_follows_the_targets_distribution(tiny_vocabulary):
    p, _ = sampled_p(*tiny_vocabulary)
    assert tiny_vocabulary[1].last_run.accepted[0] > 0
    assert p > 1e-3


REJECTION = [
    TreeConfig("chain", depth=2, acceptance="rejection"),
    TreeConfig(
        "sequoia",
        parents=(0, 0, 0, 0, 1, 1, 2),
        ranks=(0, 0, 1, 2, 0, 1, 0),
        acceptance="rejection",
    ),
]


@pytest.mark.parametrize("tree", REJECTION, ids=lambda tree: tree.policy)
def test_rejection_follows_the_targets_distribution(tiny_vocabulary, tree):
    target, head = tiny_vocabulary[0], copy.deepcopy(tiny_vocabulary[1])
    head.tree = tree
    p, _ = sampled_p(target, head)
    assert p > 1e-3 and head.last_run.accepted[0] > head.last_run.trials[0] / 4


@pytest.mark.parametrize("tree", REJECTION, ids=lambda tree: tree.policy)
def test_rejection_with_a_draft_model_of_fewer_tokens_follows_the_distribution(
    tiny_vocabulary, tree
):
    target = tiny_vocabulary[0]
    small = copy.deepcopy(target)
    small.resize_token_embeddings(5)
    assistant = WindowedDraft(small, window=None, vocab_size=5)
    assistant.tree = tree
    p, _ = sampled_p(target, assistant)
    assert p > 1e-3 and assistant.last_run.accepted[0] > assistant.last_run.trials[0] / 2


def test_a_broken_rejection_fails_the_distribution_test(tiny_vocabulary, monkeypatch):
    target, head = tiny_vocabulary[0], copy.deepcopy(tiny_vocabulary[1])
    head.tree = REJECTION[1]
    monkeypatch.setattr(
        verify, "reject", lambda target_probs, draft_probs, token: (target_probs, draft_probs)
    )
    assert sampled_p(target, head)[0] < 1e-6


def test_siblings_are_tried_in_the_order_of_their_draws(tiny_vocabulary):
    """A shape may list them in any order."""
    target, head = tiny_vocabulary[0], copy.deepcopy(tiny_vocabulary[1])
    head.tree = TreeConfig(
        "sequoia", parents=(0, 0, 0, 0), ranks=(0, 2, 0, 1), acceptance="rejection"
    )
    assert sampled_p(target, head)[0] > 1e-3


def test_a_broken_head_is_never_believed(target, trained_head):
    """NaN everywhere: rejection emits what the target may choose, and nothing else."""
    head, allowed = copy.deepcopy(trained_head), 0
    head.tree = TreeConfig("chain", depth=3, acceptance="rejection")
    with torch.no_grad():
        head.lm_head.weight.fill_(torch.nan)
    inputs = left_padded(target, [7])
    ids = target.generate(
        **inputs,
        assistant_model=head,
        max_new_tokens=30,
        do_sample=True,
        top_k=2,
        eos_token_id=None,
    )
    logits = target(ids).logits[0, 6:-1]
    assert all(token in row.topk(2).indices for token, row in zip(ids[0, 7:], logits)) and not sum(
        head.last_run.accepted
    )


def test_rejection_repeats_under_a_seed_and_is_plain_when_greedy(target, trained_head):
    head, inputs, outputs = copy.deepcopy(trained_head), left_padded(target, [7]), []
    head.tree = TreeConfig("chain", depth=3, acceptance="rejection")
    for _ in range(2):
        torch.manual_seed(1)
        outputs.append(
            target.generate(
                **inputs,
                assistant_model=head,
                max_new_tokens=60,
                do_sample=True,
                top_k=0,
                eos_token_id=None,
            )
        )
    assert torch.equal(*outputs)
    equal(target, head, inputs, max_new_tokens=60, do_sample=False, eos_token_id=None)
    with pytest.raises(ValueError, match="shape does not follow the draws; policy is 'dynamic'"):
        TreeConfig(acceptance="rejection")


def second_chance(children, choose, emit):
    """A biased rule: where the target's draw is no draft, it draws again and takes that if it is one."""

    def choose_again(node):
        token, second = choose(node), choose(node)
        return second if token not in children[node] and second in children[node] else token

    return verify.verify(children, choose_again, emit)


def test_a_biased_rule_fails_the_distribution_test(tiny_vocabulary, monkeypatch):
    monkeypatch.setattr(verifier, "verify", second_chance)
    p, _ = sampled_p(*tiny_vocabulary)
    assert p < 1e-6
