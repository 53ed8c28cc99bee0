"""Small models with random weights, made by the transformers of a vLLM environment.

They say nothing sensible, and that is enough: servers, processes and figures are real.
"""

import subprocess
import sys
from pathlib import Path

from gearshift.notebook import _tiny_child

CHAT = Path(_tiny_child.__file__).read_text("utf-8")
"""That of the notebooks: 8 heads, 4 KV heads."""


def _changed(script, changes):
    """A script with other lines; each has to be there."""
    for old, new in changes.items():
        assert old in script, old
        script = script.replace(old, new)
    return script


WIDE_CACHE = _changed(
    CHAT,
    {
        "hidden_size=32 * int(heads)": "hidden_size=64",
        "intermediate_size=512": "intermediate_size=128",
        "num_hidden_layers=2": "num_hidden_layers=8",
        "num_attention_heads=int(heads)": "num_attention_heads=64",
        "num_key_value_heads=int(kv_heads)": "num_key_value_heads=64",
        "head_dim=32": "head_dim=256",
    },
)
"""Its KV cache takes 512 KiB a token: 1 GiB, the least that we give it, holds but 2,048."""

EMBEDDING = """
import sys, torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

folder = sys.argv[1]
words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
plain = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
plain.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
PreTrainedTokenizerFast(
    tokenizer_object=plain, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
    unk_token="[UNK]",
).save_pretrained(folder)
torch.manual_seed(0)
BertModel(BertConfig(
    vocab_size=len(words), hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=256,
)).save_pretrained(folder)
"""


def make(script, python, folder):
    """Runs one of the scripts with `python`, which has transformers; returns the folder."""
    found = subprocess.run(
        [python, "-W", "ignore", "-c", script, folder], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return folder


if __name__ == "__main__":  # python tests/tiny_models.py PYTHON FOLDER
    make(CHAT, sys.argv[1], sys.argv[2])
