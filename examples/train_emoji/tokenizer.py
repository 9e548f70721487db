"""The tokenizer of the embedded models: CLIP's byte-level BPE, its merges learned from the emoji captions alone."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

VOCABULARY = 3072
MAX_LENGTH = 20  # tokens of a prompt, start and end included: all but 6 of the 3,786 captions fit
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]  # last in the vocabulary, as in CLIP


def build_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """Learn the merges from `captions`; every other text still has its bytes."""
    clip = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    vocabulary = list(dict.fromkeys(pieces))[: VOCABULARY - len(SPECIAL)]
    kept = [pair for pair in merges if "".join(pair) in set(vocabulary)]
    indices = {piece: index for index, piece in enumerate(vocabulary + SPECIAL)}
    return CLIPTokenizer(vocab=indices, merges=kept, model_max_length=MAX_LENGTH)
