"""Generate with every assistant that is not eagle_hf's, and print what it says.

Arguments: "with" to import eagle_hf first, "without" not to.
"""

import sys

import torch

if sys.argv[1] == "with":
    import eagle_hf  # noqa: F401
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

torch.set_num_threads(1)


def model_of(layers, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.25,
    )
    return LlamaForCausalLM(config).eval()


target = model_of(4, 0)
assistant = model_of(2, 1)
ids = torch.arange(3, 19)[None]
served = [
    dict(assistant_model=assistant),
    dict(prompt_lookup_num_tokens=4),
    dict(assistant_early_exit=2),
    dict(assistant_model=assistant, do_sample=True),
    dict(),
]
for settings in served:
    torch.manual_seed(0)
    print(target.generate(ids, max_new_tokens=40, **settings).tolist())

refused = [
    dict(assistant_model=assistant, num_return_sequences=2, do_sample=True),
    dict(assistant_model=model_of(2, 2), use_cache=False),
]
for settings in refused:
    try:
        target.generate(ids, max_new_tokens=5, **settings)
    except (ValueError, RuntimeError) as error:  # RuntimeError from transformers 5.24 on
        print(error)
