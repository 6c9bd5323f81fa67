"""Chat models: a tiny random one of a real architecture, saved and loaded as a user would, and one that recites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustvideo.attacks import FGSM
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation.conversation import converse, names, success_of_all, success_of_qualified
from robustvideo.model import classify
from robustvideo.models import load_model
from robustvideo.models.chat import Chat, ChatClassifier, HuggingFaceChat

transformers = pytest.importorskip("transformers", minversion="5.0")

MEDIA = {
    **{f"{kind}_token": f"<|{kind.upper()}|>" for kind in ("image", "audio", "video")},
    **{f"{kind}_{end}_token": f"<|{kind}_{end}|>" for kind in ("vision", "audio") for end in ("bos", "eos")},
}
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}\n"
)


def clip(size: int = 1, sound: bool = True, rate: int = 16000) -> Clip:
    random = torch.Generator().manual_seed(3)
    video = (torch.rand(size, 3, 4, 56, 56, generator=random) * 255).round() / 255
    audio = torch.rand(size, 1, rate, generator=random) * 0.2 if sound else None
    return Clip(video, audio, rate if sound else None, tuple(map(str, range(size))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2.5-Omni with one layer of 16 numbers and a vocabulary of bytes."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|end|>", pad_token="<|pad|>", extra_special_tokens=MEDIA
    )
    processor = transformers.Qwen2_5OmniProcessor(
        transformers.Qwen2VLImageProcessor(),
        transformers.Qwen2VLVideoProcessor(),
        transformers.WhisperFeatureExtractor(16, 16000, chunk_length=2, return_attention_mask=True),
        tokens,
        chat_template=TEMPLATE,
    )
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    ends = {"eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    sizes = {"hidden_size": 16, "intermediate_size": 32}
    config = transformers.Qwen2_5OmniThinkerConfig(
        audio_config={
            **{"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
            **{"d_model": 16, "n_window": 50, "output_dim": 16, "max_source_positions": 100},
        },
        vision_config={**sizes, "depth": 1, "num_heads": 2, "out_hidden_size": 16, "fullatt_block_indexes": [0]},
        text_config={**sizes, **heads, **ends, "vocab_size": len(tokens), "rope_parameters": rope},
        **{f"{kind}_token_index": getattr(tokens, f"{kind}_token_id") for kind in ("audio", "image", "video")},
        **{f"audio_{name}_token_id": tokens.convert_tokens_to_ids(MEDIA[f"audio_{end}_token"])
           for name, end in (("start", "bos"), ("end", "eos"))},
        **{f"vision_{name}_token_id": tokens.convert_tokens_to_ids(MEDIA[f"vision_{end}_token"])
           for name, end in (("start", "bos"), ("end", "eos"))},
        user_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("chat")
    transformers.Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> ChatClassifier:
    loaded = load_model(f"chat:{folder}?labels=[dog, acoustic_guitar]&question=What is it")
    assert isinstance(loaded, ChatClassifier)
    return loaded


def test_it_is_a_model_whose_logits_are_those_of_single_clips(model: ChatClassifier) -> None:
    two = clip(2)
    logits = classify(model, two)
    assert logits.shape == (2, 2)
    assert (logits < 0).all()
    alone = classify(model, two.select(torch.tensor([1])))
    assert torch.allclose(logits[1:], alone, atol=1e-4)
    assert model.labels == ("dog", "acoustic_guitar")
    assert model.sample_rate == 16000


def test_a_score_is_the_mean_log_probability_of_the_answer_s_tokens(model: ChatClassifier) -> None:
    chat = model.chat
    assert isinstance(chat, HuggingFaceChat)
    inputs = chat._inputs(clip(), "What is it")
    with torch.no_grad():  # letter by letter, each from the text so far: the tokens are bytes
        told, total = chat.processor.tokenizer("dog", add_special_tokens=False)["input_ids"], 0.0
        for token in told:
            total += float(chat.model(**inputs).logits[0, -1].float().log_softmax(0)[token])
            more = torch.tensor([[token]])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    assert float(chat.score(clip(), "What is it", ["dog"])) == pytest.approx(total / 3, abs=1e-4)


def test_it_sees_hears_and_does_without_sound(model: ChatClassifier) -> None:
    plain = clip()
    other = Clip(plain.video.flip(3), plain.audio, plain.sample_rate, plain.ids)
    louder = Clip(plain.video, plain.signal("audio").flip(2) * 3, plain.sample_rate, plain.ids)
    scores = [classify(model, c) for c in (plain, other, louder, clip(sound=False), clip(rate=8000))]
    assert all(not torch.equal(scores[0], score) for score in scores[1:])
    answer = model.chat.ask(plain, "What is it")
    assert answer == model.chat.ask(plain, "What is it")
    assert "What is it" not in answer


def test_what_cannot_be_done_is_said(model: ChatClassifier, folder: Path) -> None:
    with pytest.raises(InputError, match="no gradients"):
        FGSM(eps=8 / 255)(model, clip(), torch.tensor([0]))
    with pytest.raises(InputError, match="one clip at a time"):
        model.chat.ask(clip(2), "?")
    with pytest.raises(InputError, match="answers to choose from"):
        load_model(f"chat:{folder}")
    with pytest.raises(InputError, match="no folder"):
        load_model("chat:./nothing?labels=[a, b]")


class Reciter:
    """Says what it was told to say, one answer after the other."""

    def __init__(self, *answers: str):
        self.answers = list(answers)

    def ask(self, clip: Clip, question: str) -> str:
        return self.answers.pop(0)

    def score(self, clip: Clip, question: str, answers: Sequence[str]) -> Tensor:
        return torch.zeros(len(answers))


def test_an_attack_counts_where_the_clean_answer_was_right() -> None:
    chat = Reciter(
        *("A DOG barks.", "A race car."),  # turned, to another class
        *("The puppy", "the hound is a Puppy"),  # still named, by a synonym
        *("a hotdog stand", "a car"),  # never was right: dog is no word of it
        *("Dog", ""),  # silenced
        *("dog", "I cannot help with that."),  # refused
    )
    assert isinstance(chat, Chat)
    clips = [clip()] * 5
    said = converse(chat, clips, clips, ["dog"] * 5, {"dog": ["puppy"], "car": []})
    assert [e.qualified for e in said] == [True, True, False, True, True]
    assert [e.success for e in said] == [True, False, False, True, True]
    assert [e.other for e in said] == ["car", None, "car", None, None]
    assert success_of_qualified(said).estimate == 3 / 4
    assert success_of_all(said).estimate == 3 / 5
    with pytest.raises(InputError, match="as many"):
        converse(chat, clips, clips[:2], ["dog"] * 5, {})


def test_words_are_whole() -> None:
    assert names("An acoustic guitar!", ["acoustic guitar"])
    assert not names("cardboard", ["car"])
