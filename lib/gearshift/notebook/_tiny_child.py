"""Run by the Python that has vLLM: makes a model with random weights, small enough for anything.

`python _tiny_child.py FOLDER [HEADS] [KV_HEADS]`. It says nothing sensible, and that is enough:
servers, processes and figures are real. Imports nothing of ours: that Python does not have it.
"""

import sys

_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "


def main(folder: str, heads: str = "8", kv_heads: str = "4") -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate(["<s>", "</s>", *alphabet])}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, chat_template=_TEMPLATE, **ends)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=384,
        hidden_size=32 * int(heads),
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=int(heads),
        num_key_value_heads=int(kv_heads),
        head_dim=32,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        dtype="bfloat16",
    )
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
