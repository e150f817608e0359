"""vLLM's connector for hidden states on a CPU, where there are no CUDA streams to copy on.

`engine_states.py` has vLLM load it. The files are those of vLLM's own connector.

S tokens of a text, n states of a token, H hidden size.
"""

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
    PendingSave,
    extract_from_kv_cache,
)


class _NothingToWaitFor:
    """Stands for the end of a copy between devices."""

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class CpuHiddenStatesConnector(ExampleHiddenStatesConnector):
    """vLLM's connector, for states that are in this machine's memory already."""

    def _submit_async_write(self, pending: PendingSave) -> None:
        """Write the states of a text that vLLM has read."""
        if not self._is_tp_rank_zero:
            return
        slots = []
        for block in pending.block_ids:
            slots.append(torch.arange(self._block_size) + block * self._block_size)
        states = extract_from_kv_cache(
            self._kv_cache, torch.cat(slots), len(pending.token_ids)
        )  # [S, n, H]
        tensors = {"hidden_states": states.contiguous(), "token_ids": pending.token_ids.clone()}
        done = _NothingToWaitFor()
        lock = self._lock_fds.pop(pending.req_id, None)
        self._write_tensors(tensors, done, pending.filename, lock)
        self._req_copy_events[pending.req_id] = done
