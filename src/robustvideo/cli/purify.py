"""``robustvideo purify``: one video in, one purified video out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def purify(
    video: Annotated[Path, typer.Argument(help="The video to purify.")],
    defense: Annotated[str, typer.Option(help="Purifier spec.")],
    out: Annotated[Path, typer.Option(help="The purified video: lossless FFV1 in .mkv.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Crop and resize to this side first. Default: as stored.")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=0, help="Purify so many frames at once; 0: the whole video. Default: 16 by diffusion, else the whole."
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Frames that neighbouring windows share and blend. Default: a quarter.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Purify every frame of one video, and write the result losslessly, its sound beside it.

    A purifier by diffusion, or any with `--window`, takes a long video in overlapping windows that fade into each
    other: memory then follows the window. Of a purifier that votes, one vote is written: of `videopure` the middle
    prediction, which in the paper is the best alone (its `candidate=` says which), else the first.

    **Examples**

    `robustvideo purify in.mp4 --defense 'jpeg(quality=50)' --out purified.mkv`

    `robustvideo purify in.mp4 --defense 'median(size=3, temporal=true)' --window 64 --out purified.mkv`

    `robustvideo purify in.mp4 --defense 'videopure(precision=bf16)' --window 32 --out purified.mkv`
    """
    from robustvideo.cli.device import resolve
    from robustvideo.cli.film import check_out, counted, read_film
    from robustvideo.data import write_lossless
    from robustvideo.progress import track
    from robustvideo.purification import load_defense
    from robustvideo.purification.windows import purify_video

    check_out(out, video)
    purifier = load_defense(defense).single()
    clip, fps = read_film(video, size)
    with track(purifier.spec, clip.frames) as advance:
        purified = purify_video(purifier, clip.to(resolve(device)), window=window, overlap=overlap, advance=advance)
    write_lossless(out, purified.to("cpu"), fps=fps)
    change = (purified.video.to("cpu") - clip.video).abs()
    moved = f"{float(change.mean()) * 255:.2f}/255 on average"
    print(f"{purifier.spec} on {counted(clip.frames)} changed pixels by {moved}")
    print(out)
