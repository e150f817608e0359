"""Which logits processors and stopping criteria look at one row at a time.

generate calls them with the whole batch, at every step, and all rows at one length. A callback that
judges every row by that row alone, and keeps no state by a row's place, may as well be called with
one row. Only for such callbacks may the rows of a batch advance at different speeds (verifier.py).
Under any other callback they advance together (lockstep.py), which is right for all of them.

So transformers' own are listed here by exact type: a subclass, or a class of somebody else's, may
do anything.
"""

import torch
import transformers
from transformers import (
    LogitsProcessor,
    MaxLengthCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from eagle_hf.compat import AssistedCall

ROW_WISE_PROCESSORS = {
    transformers.EpsilonLogitsWarper,
    transformers.EtaLogitsWarper,
    transformers.ExponentialDecayLengthPenalty,
    transformers.ForcedBOSTokenLogitsProcessor,
    transformers.ForcedEOSTokenLogitsProcessor,
    transformers.InfNanRemoveLogitsProcessor,
    transformers.LogitNormalization,
    transformers.MinLengthLogitsProcessor,
    transformers.MinNewTokensLengthLogitsProcessor,
    transformers.MinPLogitsWarper,
    transformers.NoBadWordsLogitsProcessor,
    transformers.NoRepeatNGramLogitsProcessor,
    transformers.RepetitionPenaltyLogitsProcessor,
    transformers.SequenceBiasLogitsProcessor,
    transformers.SuppressTokensAtBeginLogitsProcessor,
    transformers.SuppressTokensLogitsProcessor,
    transformers.TemperatureLogitsWarper,
    transformers.TopHLogitsWarper,
    transformers.TopKLogitsWarper,
    transformers.TopPLogitsWarper,
    transformers.TypicalLogitsWarper,
    transformers.WatermarkLogitsProcessor,
}
ROW_WISE_CRITERIA = {
    transformers.EosTokenCriteria,
    transformers.MaxLengthCriteria,
    transformers.MaxTimeCriteria,
    transformers.StopStringCriteria,
}


def advance_together(call: AssistedCall) -> bool:
    """Whether the rows of a call must keep one length, for callbacks that see the whole batch.

    Or because the call says so.
    """
    if len(call.input_ids) == 1:
        return False
    if call.in_lockstep:
        return True
    criteria = call.stopping_criteria
    if not all(map(is_row_wise_processor, call.logits_processor)):
        return True
    if not all(map(is_row_wise_criterion, criteria)):
        return True
    # rows that are not padded go on until the last one ends, whatever ended them
    ends_at_once = pads_ended_rows(criteria) or ends_by_length_alone(criteria)
    return not ends_at_once


def is_row_wise_processor(processor: LogitsProcessor) -> bool:
    """Whether a processor may be called with any row alone, at any time."""
    if type(processor) is RepetitionPenaltyLogitsProcessor:
        # it may be as many lengths as there are rows
        return not isinstance(processor.prompt_ignore_length, torch.Tensor)
    return type(processor) in ROW_WISE_PROCESSORS


def is_row_wise_criterion(criterion: StoppingCriteria) -> bool:
    """Whether a criterion may be called with any row alone, at any time."""
    return type(criterion) in ROW_WISE_CRITERIA


def pads_ended_rows(criteria: StoppingCriteriaList) -> bool:
    """Whether generate pads rows that have ended, which it does where one may end by a token."""
    return any(hasattr(criterion, "eos_token_id") for criterion in criteria)


def ends_by_length_alone(criteria: StoppingCriteriaList) -> bool:
    """Whether all rows end at one length."""
    return all(type(criterion) is MaxLengthCriteria for criterion in criteria)
