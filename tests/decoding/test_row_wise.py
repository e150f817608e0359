"""Which callbacks of transformers may be called row by row: all classes are classified."""

import random
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
import transformers
from tiny import letter_tokenizer
from transformers import (
    EosTokenCriteria,
    LogitsProcessor,
    MaxLengthCriteria,
    MaxTimeCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StopStringCriteria,
)
from user_callbacks import penalty_with_lengths

from eagle_hf.decoding.callbacks import (
    ROW_WISE_CRITERIA,
    ROW_WISE_PROCESSORS,
    is_row_wise_criterion,
    is_row_wise_processor,
)

V = 31
# They number rows, keep a state by row, want other shapes, or run a model; or belong to one model
# and were not looked at. All of them are called with the whole batch.
BATCH_BOUND = {
    "AlternatingCodebooksLogitsProcessor",
    "BarkEosPrioritizerLogitsProcessor",
    "ClassifierFreeGuidanceLogitsProcessor",
    "ConfidenceCriteria",
    "DiaClassifierFreeGuidanceLogitsProcessor",
    "DiaEOSChannelFilterLogitsProcessor",
    "DiaEOSDelayPatternLogitsProcessor",
    "EncoderExhaustedCriteria",
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "HiggsAudioV2DelayPatternLogitsProcessor",
    "LinearTemperatureScheduleLogitsProcessor",
    "PocketTTSEosThresholdCriteria",
    "PrefixConstrainedLogitsProcessor",
    "SynthIDTextWatermarkLogitsProcessor",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "UnlimitedOcrSlidingWindowNoRepeatNgramLogitsProcessor",
    "VibeVoiceTokenConstraintProcessor",
    "WhisperNoSpeechDetection",
    "WhisperTimeStampLogitsProcessor",
}
# class X(SomeLogitsProcessor): ..., also of a module's own or several bases
A_CALLBACK = re.compile(r"^class \w+\([^)]*(LogitsProcessor|LogitsWarper|Criteria)\b", re.M)


def classes_of_transformers():
    """Every logits processor and stopping criterion in the installed package, by name."""
    package = Path(transformers.__file__).parent
    for file in sorted(package.rglob("*.py")):
        if A_CALLBACK.search(file.read_text(encoding="utf-8")):
            module = file.relative_to(package.parent).with_suffix("")
            import_module(".".join(module.parts))
    found = {}
    waiting = [LogitsProcessor, StoppingCriteria]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.startswith("transformers."):
                found[kind.__name__] = kind
    return found


def test_every_callback_of_transformers_is_classified():
    found = classes_of_transformers()
    row_wise = {kind.__name__ for kind in ROW_WISE_PROCESSORS | ROW_WISE_CRITERIA}
    assert len(found) > 30
    assert row_wise <= set(found)
    unknown = set(found) - row_wise - BATCH_BOUND
    assert not unknown, (
        f"look at {sorted(unknown)}: what judges a row by that row alone, without a state, goes "
        "into decoding/callbacks.py, anything else into BATCH_BOUND"
    )
    assert not row_wise & BATCH_BOUND


# What each row-wise class is made with.
PROCESSOR_ARGUMENTS = {
    "EpsilonLogitsWarper": dict(epsilon=0.03),
    "EtaLogitsWarper": dict(epsilon=0.1),
    "ExponentialDecayLengthPenalty": dict(
        exponential_decay_length_penalty=(2, 1.3), eos_token_id=2, input_ids_seq_length=4
    ),
    "ForcedBOSTokenLogitsProcessor": dict(bos_token_id=1),
    "ForcedEOSTokenLogitsProcessor": dict(max_length=9, eos_token_id=2),
    "InfNanRemoveLogitsProcessor": {},
    "LogitNormalization": {},
    "MinLengthLogitsProcessor": dict(min_length=8, eos_token_id=2),
    "MinNewTokensLengthLogitsProcessor": dict(
        prompt_length_to_skip=4, min_new_tokens=4, eos_token_id=2
    ),
    "MinPLogitsWarper": dict(min_p=0.3),
    "NoBadWordsLogitsProcessor": dict(bad_words_ids=[[3], [4, 5], [6, 7, 8]], eos_token_id=2),
    "NoRepeatNGramLogitsProcessor": dict(ngram_size=2),
    "RepetitionPenaltyLogitsProcessor": dict(penalty=1.4),
    "SequenceBiasLogitsProcessor": dict(sequence_bias=[[[3], 2.0], [[4, 5], -3.0]]),
    "SuppressTokensAtBeginLogitsProcessor": dict(begin_suppress_tokens=[3, 4], begin_index=6),
    "SuppressTokensLogitsProcessor": dict(suppress_tokens=[5, 6]),
    "TemperatureLogitsWarper": dict(temperature=0.7),
    "TopHLogitsWarper": dict(top_h=0.5),
    "TopKLogitsWarper": dict(top_k=5),
    "TopPLogitsWarper": dict(top_p=0.6),
    "TypicalLogitsWarper": dict(mass=0.5),
    "WatermarkLogitsProcessor": dict(vocab_size=V, device="cpu", context_width=2),
}


def states(seed):
    """Batches (ids [3, L], scores [3, V]) of growing lengths, as a run has them."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length in (1, 4, 5, 6, 7, 8, 9):
        ids = torch.randint(2, 9, (3, length), generator=generator)
        batches.append((ids, 3 * torch.randn(3, V, generator=generator)))
    return batches


@pytest.mark.parametrize("kind", sorted(ROW_WISE_PROCESSORS, key=lambda kind: kind.__name__))
def test_a_row_wise_processor_may_be_called_with_any_row_at_any_time(kind):
    arguments = PROCESSOR_ARGUMENTS[kind.__name__]
    for_batches = kind(**arguments)
    for_rows = kind(**arguments)
    assert is_row_wise_processor(for_rows)
    expected = []
    calls = []
    for ids, scores in states(3):
        expected.append(for_batches(ids, scores.clone()))
        calls += [(len(expected) - 1, row, ids[row : row + 1], scores[row]) for row in range(3)]
    random.Random(0).shuffle(calls)
    has_effect = False
    for step, row, ids, scores in calls:
        alone = for_rows(ids, scores[None].clone())[0]
        assert torch.equal(alone, expected[step][row])
        has_effect = has_effect or not torch.equal(alone, scores)
    assert has_effect or kind.__name__ == "InfNanRemoveLogitsProcessor"


CRITERIA = {
    "EosTokenCriteria": lambda: EosTokenCriteria([2, 5]),
    "MaxLengthCriteria": lambda: MaxLengthCriteria(7),
    "MaxTimeCriteria": lambda: MaxTimeCriteria(0.0, initial_timestamp=0.0),
    "StopStringCriteria": lambda: StopStringCriteria(letter_tokenizer(), ["a", "bc"]),
}


@pytest.mark.parametrize("kind", sorted(ROW_WISE_CRITERIA, key=lambda kind: kind.__name__))
def test_a_row_wise_criterion_may_be_called_with_any_row_at_any_time(kind):
    for_batches = CRITERIA[kind.__name__]()
    for_rows = CRITERIA[kind.__name__]()
    assert is_row_wise_criterion(for_rows)
    verdicts = set()
    for ids, _ in reversed(states(4)):
        together = for_batches(ids, None)
        for row in (2, 0, 1):
            assert bool(for_rows(ids[row : row + 1], None)) == bool(together[row])
            verdicts.add(bool(together[row]))
    assert True in verdicts


def test_a_subclass_may_do_anything():
    class Louder(RepetitionPenaltyLogitsProcessor):
        pass

    class Later(MaxLengthCriteria):
        pass

    assert not is_row_wise_processor(Louder(1.1))
    assert not is_row_wise_criterion(Later(7))


def test_a_penalty_with_a_length_for_every_row_is_not_row_wise():
    assert not is_row_wise_processor(penalty_with_lengths(1.3, torch.tensor([2, 4])))
    assert is_row_wise_processor(RepetitionPenaltyLogitsProcessor(1.3, prompt_ignore_length=4))
