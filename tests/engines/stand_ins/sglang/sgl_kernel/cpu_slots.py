"""Which slots of the key-value pool hold which tokens; shapes as in the package's docstring."""

import ctypes

import torch


def build_draft_decode_metadata_cpu(
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    topk: int,
    num_steps: int,
    pool_len: int,
) -> torch.Tensor:
    """The slots [B * topk, S] that every branch reads: the text's, then its own `num_steps`."""
    slots = req_to_token[req_pool_indices].repeat_interleave(topk, dim=0)
    for row, length in enumerate(seq_lens.repeat_interleave(topk).tolist()):
        request, branch = divmod(row, topk)
        first = length + branch * num_steps
        own = req_to_token[req_pool_indices[request], first : first + num_steps]
        slots[row, length : length + num_steps] = own
    return slots


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    seq_lens: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
    topk: int,
    num_cols: int,
) -> None:
    """The slots behind every text: `topk * num_cols` for its branches."""
    end = seq_lens + topk * num_cols
    assign_extend_cache_locs_cpu(
        req_pool_indices, req_to_token, seq_lens, end, out_cache_loc, pool_len
    )


def assign_extend_cache_locs_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """The slots from `start` to `end` of every request, one request after the other."""
    taken = 0
    spans = zip(req_pool_indices.tolist(), start.tolist(), end.tolist(), strict=True)
    for pool, first, last in spans:
        count = last - first
        out_cache_loc[taken : taken + count] = req_to_token[pool, first:last]
        taken += count


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """The inverse: note new slots as those from `start` to `end` of every request."""
    taken = 0
    spans = zip(req_pool_indices.tolist(), start.tolist(), end.tolist(), strict=True)
    for pool, first, last in spans:
        count = last - first
        req_to_token[pool, first:last] = out_cache_loc[taken : taken + count]
        taken += count


def copy_all_layer_kv_cache_cpu(
    data_ptrs: torch.Tensor, strides: torch.Tensor, tgt_loc: torch.Tensor, src_loc: torch.Tensor
) -> None:
    """Move rows within every layer's buffer; `strides` are the bytes of a row."""
    sources = src_loc.tolist()
    destinations = tgt_loc.tolist()
    for address, size in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        # all are read before any is written: a destination may be another row's source
        rows = [ctypes.string_at(address + slot * size, size) for slot in sources]
        for slot, row in zip(destinations, rows, strict=True):
            ctypes.memmove(address + slot * size, row, size)


def fill_bonus_tokens_cpu(
    accept_tokens: torch.Tensor,
    accept_lens: torch.Tensor,
    bonus_tokens: torch.Tensor,
    accept_stride: int,
) -> None:
    """The last of every request's accepted tokens."""
    last = torch.arange(len(accept_lens)) * accept_stride + accept_lens - 1
    bonus_tokens.copy_(accept_tokens.flatten()[last])


def fill_accept_out_cache_loc_cpu(
    accept_index: torch.Tensor, out_cache_loc: torch.Tensor, accept_out_cache_loc: torch.Tensor
) -> None:
    """The slots of the accepted nodes, without gaps; -1 is none."""
    slots = out_cache_loc[accept_index[accept_index > -1].long()]
    accept_out_cache_loc[: len(slots)] = slots
