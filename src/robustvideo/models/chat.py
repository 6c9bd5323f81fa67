"""Audio-visual language models as victims: a question about a clip, and what the answer says (AV appendix D).

The paper transfers clips crafted on small classifiers to VideoLLaMA2. `ask` is what it does; `ChatClassifier` makes a
`Model` of a chat model besides, so that everything that is tried on models can be tried on it: a class's logit is the
log-probability of its name as the answer.

The victim's own processor samples and resizes frames and makes spectrograms, on whole numbers. Nothing of it has
gradients: chat models are for transferred clips, and for attacks that only ask (``square``, ``nes``, ``simba``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.spectrogram import resample
from robustvideo.registry import construct
from robustvideo.spec import Call, Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

QUESTION = "Please point out the main object generating the sound based on the input video."
"""The paper's."""

_LONGEST_ANSWER = 64  # tokens
_WORST = -1e9


@runtime_checkable
class Chat(Protocol):
    """A model that talks about a clip."""

    def ask(self, clip: Clip, question: str) -> str:
        """Its answer to a question about one clip, the same every time."""

    def score(self, clip: Clip, question: str, answers: Sequence[str]) -> Tensor:
        """(K,) mean log-probability per token of each answer to a question about one clip."""


class HuggingFaceChat(torch.nn.Module):
    """A chat model of transformers that hears and sees: Qwen2.5-Omni, or another whose processor is called alike.

    Frames go to its processor as 8-bit pictures, sound as one channel at the processor's rate. A clip without a sound
    track is sent without one.

    Args:
        model: generates text.
        processor: takes ``text``, ``videos`` and ``audio``, and has a chat template.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        super().__init__()
        self.model = model
        self.processor = processor

    @property
    def rate(self) -> int:
        """Samples per second that it hears."""
        return int(self.processor.feature_extractor.sampling_rate)

    @torch.no_grad()
    def ask(self, clip: Clip, question: str) -> str:
        inputs = self._inputs(clip, question)
        written = self.model.generate(**inputs, max_new_tokens=_LONGEST_ANSWER, do_sample=False)
        answer = written[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(answer, skip_special_tokens=True)).strip()

    @torch.no_grad()
    def score(self, clip: Clip, question: str, answers: Sequence[str]) -> Tensor:
        inputs = self._inputs(clip, question)
        asked = inputs["input_ids"].shape[1]
        scores = []
        for answer in answers:
            told = self.processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
            told = told.to(inputs["input_ids"].device)
            logits = self.model(**_continued(inputs, told)).logits[:, asked - 1 : -1]
            scores.append(logits.float().log_softmax(2).gather(2, told[:, :, None]).mean())
        return torch.stack(scores)

    def _inputs(self, clip: Clip, question: str) -> dict[str, Any]:
        if len(clip) != 1:
            raise InputError(f"A chat model is asked about one clip at a time, got {len(clip)}.")
        content: list[dict[str, str]] = [{"type": "video"}]
        media: dict[str, Any] = {
            "videos": [(clip.video[0].transpose(0, 1) * 255).round().clamp(0, 255).to(torch.uint8).cpu()]
        }
        if clip.audio is not None and clip.audio.shape[2] > 0:
            content.append({"type": "audio"})
            heard = resample(clip.audio.mean(1), clip.sample_rate or self.rate, self.rate)
            media["audio"] = [heard[0].float().cpu().numpy()]
        content.append({"type": "text", "text": question})
        turns = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = dict(self.processor(text=[text], return_tensors="pt", **media))
        device = self.model.device
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _continued(inputs: dict[str, Any], told: Tensor) -> dict[str, Any]:
    """The inputs with the tokens of an answer (1, n) after those of the question."""
    shape = inputs["input_ids"].shape
    more = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == shape:
            added = told if name == "input_ids" else torch.full_like(told, int(name == "attention_mask"))
            more[name] = torch.cat([value, added.to(value.dtype)], dim=1)
    return more


class ChatClassifier(Model):
    """A chat model that chooses one of a few answers: logits (B, K) are their mean log-probabilities per token.

    Per token, or long names would never be chosen. It has no gradients.

    Args:
        chat: the chat model.
        labels: the answers, by class.
        question: what is asked. Default: the paper's.
    """

    def __init__(self, chat: Chat, labels: Sequence[str], question: str = QUESTION):
        super().__init__()
        self.chat = chat
        self.question = question
        self.labels = tuple(labels)
        self.sample_rate = getattr(chat, "rate", None)

    def forward(self, clip: Clip) -> Tensor:
        if torch.is_grad_enabled() and (
            clip.video.requires_grad or (clip.audio is not None and clip.audio.requires_grad)
        ):
            raise InputError(
                "A chat model has no gradients: craft the clips on another one (--surrogate, crafted_on=)."
            )
        names = [label.replace("_", " ") for label in self.labels or ()]
        rows = torch.arange(len(clip), device=clip.device)
        scores = [self.chat.score(clip.select(rows[i : i + 1]), self.question, names) for i in range(len(clip))]
        return torch.stack(scores).to(clip.device).nan_to_num(nan=_WORST, neginf=_WORST)


@dataclass(frozen=True)
class Options:
    """Options of a spec ``chat:<repository or folder>``.

    Attributes:
        labels: the answers it may give, by class.
        question: what it is asked. Default: the paper's.
    """

    labels: tuple[str, ...]
    question: str = QUESTION


def load_chat(source: Source) -> ChatClassifier:
    """Load ``chat:<repository or folder>?labels=[guitar, dog]``: safetensors only, never a repository's own code.

    Checked with Qwen2.5-Omni's architecture. VideoLLaMA2, the paper's victim, is not part of transformers and would
    run its repository's code: wrap it as a `Chat` in a file of your own.

    Raises:
        InputError: transformers is not installed or too old, no labels, or the repository cannot be had.
    """
    arguments: dict[str, Any] = dict(source.options)
    arguments["labels"] = [name.strip() for name in str(arguments.get("labels", "")).strip("[]").split(",")]
    if len(arguments["labels"]) < 2:
        raise InputError(f"chat:{source.name} needs the answers to choose from: add ?labels=[guitar, dog].")
    options = construct(Options, Call(f"chat:{source.name}", arguments))
    return ChatClassifier(load_conversation(source.name), options.labels, options.question)


def load_conversation(name: str) -> HuggingFaceChat:
    """The chat model of a repository or folder, to be asked freely; see `load_chat`."""
    try:
        from transformers import AutoModelForMultimodalLM, AutoProcessor
    except ImportError as error:
        raise InputError("Chat models need transformers 5: pip install -U 'robustvideo[hub]'.") from error
    place = str(Path(name).expanduser())
    if name.startswith((".", "/", "~")) and not Path(place).is_dir():
        raise InputError(f"There is no folder {name}.")
    try:
        model = AutoModelForMultimodalLM.from_pretrained(place, use_safetensors=True, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"The chat model {name} cannot be loaded: {reason}") from error
    return HuggingFaceChat(getattr(model, "thinker", model).eval(), processor)  # an omni model's part that writes
