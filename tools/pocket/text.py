"""Train the text encoder of pocket-wan: a two-layer `UMT5EncoderModel` over whole words, and its tokenizer.

    python -m tools.pocket.text --out out/pocket/text

It learns to say, from the mean of its tokens, which subject, motion and background a caption names, over many
wordings of each. That takes a minute; it is frozen from then on. For a corpus with fewer words it can be kept as it
is, so that a teacher that reads it goes on reading it: `--start swd_video/assets/pocket-wan --steps 0`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from swd_video.files import whole_folder
from tools.pocket.corpus import BACKGROUNDS, MOTIONS, SUBJECTS, ClipSpec

TEXT_LENGTH = 16

# Other words for the corpus's own; each list is as good as its key.
WORDINGS = {
    "standing still": ("staying", "not moving", "standing", "waiting"),
    "moving left": ("walking left", "going left", "running to the left", "flying left", "driving left"),
    "moving right": ("walking right", "going right", "running to the right", "flying right", "driving right"),
    "floating up": ("rising", "going up", "flying up", "moving up"),
    "falling down": ("sinking", "going down", "dropping", "moving down"),
    "coming closer": ("growing", "coming nearer", "getting bigger", "zooming in"),
    "under a blue sky": ("in the sky", "in a blue sky", "on a sunny day"),
    "on a green meadow": ("on the grass", "in a green field", "on a meadow"),
    "at sunset": ("in the evening", "at dusk", "in the sunset"),
    "at night": ("in the dark", "under the moon", "in the night"),
    "on a sandy beach": ("on the beach", "by the sea", "on the sand"),
    "in the snow": ("in winter", "on a snowy day", "in a snowy forest"),
    "racing car": ("race car", "car"),
    "birthday cake": ("cake",),
    "christmas tree": ("tree",),
    "blue heart": ("heart",),
    "chick": ("baby chick",),
}


def wording(spec: ClipSpec, rng: np.random.Generator, canonical: float) -> str:
    """A caption of the clip: the corpus's own with probability `canonical`, else in other words."""
    if rng.random() < canonical:
        return spec.caption
    subject, motion, background = (
        str(rng.choice((words, *WORDINGS.get(words, ()))))
        for words in (spec.subject, spec.motion, spec.background)
    )
    noun = f"{rng.choice(('a', 'the', 'one'))} {subject}"
    forms = (
        f"{noun} {motion} {background}",
        f"{noun} is {motion} {background}",
        f"{background} {noun} {motion}",
    )
    return str(rng.choice(forms))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, lower case; padding, end and unknown as T5 numbers them."""
    phrases = [
        *SUBJECTS,
        *MOTIONS,
        *BACKGROUNDS,
        *(w for words in WORDINGS.values() for w in words),
        "a an the one is",
    ]
    words = sorted({word for phrase in phrases for word in phrase.split()})
    vocabulary = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "removed") for pattern in (" ", ",", ".", "-")]
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
    )


def build_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    """The untrained network."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary_size,
            d_model=96,
            d_kv=24,
            d_ff=192,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


@torch.no_grad()
def take_words(
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    trained: UMT5EncoderModel,
    words: dict[str, int],
) -> None:
    """Start from a trained encoder: words that both know keep their vectors, all else is taken over whole."""
    weights = trained.state_dict()
    table = encoder.get_input_embeddings().weight.clone()
    for word, row in tokenizer.get_vocab().items():
        if word in words:
            table[row] = weights["shared.weight"][words[word]]
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        weights[name] = table
    encoder.load_state_dict(weights)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--start", type=Path, help="pipeline folder whose text encoder to go on from")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tokenizer = build_tokenizer()
    encoder = build_encoder(len(tokenizer))
    if arguments.start is not None:
        take_words(
            encoder,
            tokenizer,
            UMT5EncoderModel.from_pretrained(arguments.start, subfolder="text_encoder", dtype=torch.float32),
            AutoTokenizer.from_pretrained(arguments.start, subfolder="tokenizer").get_vocab(),
        )
    tables = (tuple(SUBJECTS), MOTIONS, BACKGROUNDS)
    heads = nn.ModuleList([nn.Linear(96, len(table)) for table in tables])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=2e-3, weight_decay=0.01)
    for step in range(arguments.steps):
        labels = [[int(rng.integers(len(table))) for table in tables] for _ in range(64)]
        specs = [
            ClipSpec(tables[0][subject], tables[1][motion], tables[2][background], seed=0)
            for subject, motion, background in labels
        ]
        captions = [wording(spec, rng, canonical=0.3) for spec in specs]
        tokens = tokenizer(
            captions, padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
        )
        states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        weights = tokens.attention_mask.unsqueeze(-1)
        pooled = (states * weights).sum(1) / weights.sum(1)
        scores = [head(pooled) for head in heads]
        targets = torch.tensor(labels).unbind(1)
        loss = sum(
            (nn.functional.cross_entropy(s, t) for s, t in zip(scores, targets, strict=True)),
            start=torch.zeros(()),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            right = [f"{(s.argmax(1) == t).float().mean():.2f}" for s, t in zip(scores, targets, strict=True)]
            print(f"step {step + 1} loss {loss.item():.4f} right {' '.join(right)}", flush=True)
    for part, saved in (("text_encoder", encoder), ("tokenizer", tokenizer)):
        with whole_folder(arguments.out / part) as draft:
            saved.save_pretrained(draft)


if __name__ == "__main__":
    main()
