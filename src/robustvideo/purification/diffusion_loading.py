"""`load_diffusion`: the diffusion model that a purifier names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.models.noise_schedule import NoiseSchedule
from robustvideo.models.video_diffusion import VideoDenoiser, load_denoiser
from robustvideo.purification.diffusion_model import Diffusion, FrameAutoencoder, Pixels, Precision


def load_diffusion(model: str, precision: Precision = "fp32") -> Diffusion:
    """Load a diffusion model, in evaluation mode.

    ==========================================  ======================================================================
    ``embedded:kinetic``                        a small model of `embedded:kinetic` that comes with the package
    ``runs/diffusion/model.safetensors``        one that ``robustvideo train`` wrote for a network
                                                ``with=video_diffusion()``; its denoiser is used, its network is not;
                                                ``trained:`` may stand before it
    ``damo-vilab/text-to-video-ms-1.7b``        a repository on the Hugging Face hub, or a local folder, in the layout
                                                of diffusers: ``unet``, ``scheduler``, and for latents ``vae``
    ==========================================  ======================================================================

    Of diffusers' networks it takes UNet3DConditionModel, and UNet2DConditionModel and UNet2DModel, which see one frame
    at a time. A text condition is the empty prompt: once, without classifier-free guidance, which would compare it with
    itself. Without a text encoder beside the network the condition is zero.

    Raises:
        InputError: a model that is not there, that is of another kind, or whose library is not installed.
    """
    if model.startswith(("embedded:", "trained:")) or model.endswith(".safetensors"):
        return Diffusion(load_denoiser(model), Pixels(VideoDenoiser.factor), precision=precision).eval()
    return load_diffusers(model, precision)


class DiffusersNetwork(nn.Module):
    """A network of diffusers as `Diffusion` calls it.

    Args:
        unet: UNet3DConditionModel, or a network of images, to which frames are a batch.
        prompt: (1, L, D) the text condition; None for a network that takes none.
        framewise: whether it is a network of images.
    """

    prompt: Tensor | None

    def __init__(self, unet: Any, prompt: Tensor | None, framewise: bool):
        super().__init__()
        self.unet = unet
        self.framewise = framewise
        self.register_buffer("prompt", prompt, persistent=False)

    def forward(self, state: Tensor, timesteps: Tensor) -> Tensor:
        batch, frames = len(state), state.shape[2]
        if self.framewise:
            state = state.transpose(1, 2).flatten(0, 1)
            timesteps = timesteps.repeat_interleave(frames)
        given = {} if self.prompt is None else {"encoder_hidden_states": self.prompt.expand(len(state), -1, -1)}
        output: Tensor = self.unet(state, timesteps, **given).sample[:, : state.shape[1]]  # a learned variance goes
        return output.view(batch, frames, *output.shape[1:]).transpose(1, 2) if self.framewise else output


def load_diffusers(name: str, precision: Precision = "fp32") -> Diffusion:
    """A diffusion model in diffusers' layout: safetensors or torch files of tensors, and never a repository's code.

    Raises:
        InputError: see `load_diffusion`.
    """
    try:
        import diffusers
    except ImportError as error:
        raise InputError("Diffusion models of others need diffusers: pip install 'robustvideo[diffusion]'.") from error
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise InputError(f"There is no diffusion model {name}: give a folder, a hub repository or a .safetensors file.")
    place = str(folder) if folder.is_dir() else name
    try:
        parts = _parts(diffusers, place)
        kind = parts["unet"][1]
        if kind not in ("UNet3DConditionModel", "UNet2DConditionModel", "UNet2DModel"):
            raise InputError(f"{name} is no diffusion model that purifies: its network is a {kind}.")
        unet = getattr(diffusers, kind).from_pretrained(place, subfolder="unet")
        config, _ = diffusers.DDIMScheduler.load_config(place, subfolder="scheduler", return_unused_kwargs=True)
        vae = diffusers.AutoencoderKL.from_pretrained(place, subfolder="vae") if "vae" in parts else None
        prompt = _empty_prompt(place, parts, unet) if kind != "UNet2DModel" else None
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"The diffusion model {name} cannot be loaded, it is not in diffusers' layout or the hub is out of reach: "
            f"{_first_line(error)}"
        ) from error
    halvings = 2 ** (len(unet.config.block_out_channels) - 1)
    network = DiffusersNetwork(unet, prompt, framewise=kind != "UNet3DConditionModel")
    codec = Pixels(halvings) if vae is None else FrameAutoencoder(vae)
    return Diffusion(network, codec, NoiseSchedule.from_config(config), precision).eval()


def _parts(diffusers: Any, place: str) -> dict[str, Any]:
    """What ``model_index.json`` says the model is made of: name -> (library, class)."""
    parts: dict[str, Any] = diffusers.DiffusionPipeline.load_config(place)
    if "unet" not in parts:
        raise InputError(f"{place} is no diffusion model that purifies: it has no unet.")
    return {part: kind for part, kind in parts.items() if isinstance(kind, list | tuple) and kind[0] is not None}


def _empty_prompt(place: str, parts: dict[str, Any], unet: Any) -> Tensor:
    """(1, L, D) the text encoder's states for an empty prompt, once; the encoder is not kept."""
    if "text_encoder" not in parts:
        return torch.zeros(1, 1, unet.config.cross_attention_dim)
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(place, subfolder="tokenizer", trust_remote_code=False)
    encoder = getattr(transformers, parts["text_encoder"][1]).from_pretrained(place, subfolder="text_encoder")
    length = encoder.config.max_position_embeddings
    tokens = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states: Tensor = encoder.eval()(tokens.input_ids)[0]
    return states


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
