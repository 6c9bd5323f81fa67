"""Diffusion models from files, and from folders in diffusers' layout."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusing import a_video
from purifiers import denoiser_file
from torch import Tensor

from robustvideo.errors import InputError
from robustvideo.models.video_diffusion import VideoDenoiser
from robustvideo.purification import load_defense
from robustvideo.purification.diffusion_loading import DiffusersNetwork, load_diffusers, load_diffusion
from robustvideo.purification.diffusion_model import Diffusion, FrameAutoencoder, Pixels

SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SMALL = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}


def save(folder: Path, kinds: dict[str, str], scheduler: dict[str, Any], **parts: Any) -> str:
    """A folder in diffusers' layout."""
    import diffusers

    for name, part in parts.items():
        part.save_pretrained(folder / name)
    diffusers.DDIMScheduler(set_alpha_to_one=False, **scheduler).save_pretrained(folder / "scheduler")
    index = {"_class_name": "Pipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {name: ["diffusers", kind] for name, kind in kinds.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.fixture(scope="session")
def video_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Latents and a 3-D network with a text condition, as ModelScope's; without a text encoder."""
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet3DConditionModel(
            **SMALL,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=12,
            attention_head_dim=4,
        )
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("video_model")
    return save(folder, {"unet": "UNet3DConditionModel", "vae": "AutoencoderKL"}, SCHEDULER, unet=unet, vae=vae)


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pixels and a 2-D network that sees one frame at a time."""
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            **SMALL, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, out_channels=6
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("image_model")
    return save(folder, {"unet": "UNet2DModel"}, {"beta_schedule": "linear"}, unet=unet)


def video(frames: int = 3, height: int = 15, width: int = 16) -> Tensor:
    return a_video(2, frames, height, width).video.float()


def test_a_video_model_purifies_in_its_latents(video_model: str) -> None:
    diffusion = load_diffusers(video_model)
    assert isinstance(diffusion.codec, FrameAutoencoder)
    assert diffusion.codec.factor == 2
    assert diffusion.schedule.steps(50, 6)[0].t == 101
    with torch.no_grad():
        latents = diffusion.encode(video())
        assert latents.shape == (2, 4, 3, 8, 8)
        assert diffusion.decode(latents, video()).shape == (2, 3, 3, 15, 16)
        answers = load_defense(f"videopure(model={video_model!r}, steps=2, flow=none)").purify(
            a_video(2, 3, 15, 16), [0, 1]
        )
    assert len(answers) == 3
    assert answers[0].video.shape == (2, 3, 3, 15, 16)


def test_latents_are_the_posterior_s_mean_times_the_scale(video_model: str) -> None:
    diffusion = load_diffusers(video_model)
    vae = diffusion.codec.autoencoder
    frame = video(height=16)[:, :, 1]
    with torch.no_grad():
        expected = vae.encode(2 * frame - 1).latent_dist.mean * 0.18215
        assert torch.allclose(diffusion.encode(video(height=16))[:, :, 1], expected, atol=1e-6)


def test_frames_in_chunks_are_the_frames(video_model: str) -> None:
    diffusion = load_diffusers(video_model)
    long = torch.cat([video(height=16)] * 6, 2)  # 18 frames of each of two clips
    with torch.no_grad():
        assert torch.allclose(diffusion.encode(long)[:, :, 15:], diffusion.encode(video(height=16)), atol=1e-5)


def test_the_network_is_diffusers_own(video_model: str) -> None:
    import diffusers

    diffusion = load_diffusers(video_model)
    unet = diffusers.UNet3DConditionModel.from_pretrained(video_model, subfolder="unet").eval()
    state = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    step = diffusion.schedule.steps(50, 6)[0]
    with torch.no_grad():
        expected = unet(state, 101, encoder_hidden_states=torch.zeros(2, 1, 12)).sample
        assert torch.allclose(diffusion.noise(state, step), expected, atol=1e-5)
    assert diffusion.calls.batches == 1


def test_an_image_model_sees_frame_by_frame(image_model: str) -> None:
    diffusion = load_diffusion(image_model)
    assert isinstance(diffusion.codec, Pixels)
    assert diffusion.codec.factor == 2
    step = diffusion.schedule.steps(50, 6)[0]
    assert step.t == 100  # linear betas of another scheduler, without an offset
    with torch.no_grad():
        state = diffusion.encode(video())
        noise = diffusion.noise(state, step)
        assert noise.shape == state.shape  # a learned variance is left out
        alone = diffusion.noise(state[:, :, 1:2], step)
    assert torch.allclose(noise[:, :, 1:2], alone, atol=1e-5)


def test_a_gradient_passes_both(video_model: str) -> None:
    purifier = load_defense(f"ddim_inversion(model={video_model!r}, steps=2)")
    clip = a_video(1, 2)
    inputs = clip.video.requires_grad_()
    (answer,) = purifier.purify(clip.with_signal("video", inputs), [0])
    (gradient,) = torch.autograd.grad(answer.video.sum(), inputs)
    assert gradient.abs().max() > 0


def test_in_bf16_the_network_runs_in_bf16_and_the_states_do_not(video_model: str) -> None:
    exact, fast = load_diffusion(video_model), load_diffusion(video_model, "bf16")
    step = exact.schedule.steps(50, 6)[0]
    with torch.no_grad():
        state = exact.encode(video())
        found = fast.noise(state, step)
        expected = exact.noise(state, step)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_condition_is_the_empty_prompt_without_guidance(video_model: str, tmp_path: Path) -> None:
    """A text encoder as small as they come, with the two tokens that an empty prompt has."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "model"
    shutil.copytree(video_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(words))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", **special})
    )
    numbers = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": 4, "max_position_embeddings": 5}
    sizes = {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**numbers, **sizes)).eval()
    encoder.save_pretrained(folder / "text_encoder")
    diffusion = load_diffusers(str(folder))
    assert isinstance(diffusion.network, DiffusersNetwork)
    assert diffusion.network.prompt is not None
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 1, 1, 1]]))[0]
    assert torch.allclose(diffusion.network.prompt, expected, atol=1e-6)
    seen = []
    diffusion.network.unet.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    with torch.no_grad():
        diffusion.noise(torch.zeros(2, 4, 3, 8, 8), diffusion.schedule.steps(50, 6)[0])
    assert seen == [2]  # a clip is not doubled


def test_a_trained_file_is_its_denoiser(tmp_path: Path) -> None:
    diffusion = load_diffusion(denoiser_file(tmp_path))
    assert isinstance(diffusion.network, VideoDenoiser)
    assert diffusion.network.width == 4
    assert isinstance(diffusion, Diffusion)
    assert not diffusion.training


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("embedded:nothing", "Unknown embedded diffusion model"),
        ("./nowhere", "no diffusion model"),
        ("nowhere", "no diffusion model"),
        ("nowhere.safetensors", "no checkpoint"),
    ],
)
def test_what_is_not_there_is_refused(model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_diffusion(model)


def test_what_is_no_such_model_is_refused(image_model: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "P", "transformer": ["diffusers", "T"]}')
    with pytest.raises(InputError, match="no unet"):
        load_diffusion(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "P", "unet": ["diffusers", "UNet1DModel"]}')
    with pytest.raises(InputError, match="UNet1DModel"):
        load_diffusion(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "P", "unet": ["diffusers", "UNet2DModel"]}')
    with pytest.raises(InputError, match="cannot be loaded"):
        load_diffusion(str(tmp_path))


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"robustvideo\[diffusion\]"):
        load_diffusion("damo-vilab/text-to-video-ms-1.7b")
