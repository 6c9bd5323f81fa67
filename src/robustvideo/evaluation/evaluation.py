"""`evaluate`: attack a model on a data set, and leave a run directory behind."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from robustvideo.attacks import Attack, load_attack
from robustvideo.attacks.attack import check_model
from robustvideo.data import load_data
from robustvideo.data.dataset import UnusableClip, VideoDataset
from robustvideo.errors import InputError, RobustVideoWarning
from robustvideo.evaluation.crafting import Surrogate
from robustvideo.evaluation.engine import Engine, Name, load_engine
from robustvideo.evaluation.identity import code_of, digest_of, settings_of
from robustvideo.evaluation.records import Record, finished_items, merge_shards, shard, write_shard
from robustvideo.evaluation.run import Manifest, Run, environment, now, open_run, start_run
from robustvideo.evaluation.runner import NO_DEFENSE, Runner
from robustvideo.evaluation.suite import Suite
from robustvideo.evaluation.trust import examine_run
from robustvideo.evaluation.trust.check import FILE as TRUST
from robustvideo.model import Model, device_of
from robustvideo.models import load_model
from robustvideo.progress import track
from robustvideo.purification import Defended, Purifier, load_defense
from robustvideo.storage import at_work, place, slug

MERGED_FROM = 64
"""A finished run of fewer work items keeps a shard for each, which is easier to look at."""


def evaluate(
    model: Model | str,
    data: VideoDataset | str,
    attacks: Attack | str | Sequence[Attack | str],
    *,
    out: Path | str,
    batch_size: int = 8,
    save_clips: int = 12,
    strict: bool = False,
    surrogates: Sequence[Surrogate] = (),
    codecs: str | Sequence[str] = (),
    defenses: Purifier | str | Sequence[Purifier | str | None] | None = (None,),
    trust: bool = False,
    title: str = "Robustness report",
    command: str = "",
    device: str = "cpu",
    quiet: bool = False,
    engine: Engine | Name = "local",
) -> Run:
    """Attack a model on a data set.

    Calling it again with the same arguments continues where it stopped; the finished run has the records of an
    undisturbed one. Clips that could not be read are tried again, and where one can be now, its batch is done anew.

    Args:
        model: a model, which stays on its device, or a model spec, which is loaded onto ``device``.
        data: a data set or its spec.
        attacks: configured attacks or their specs, each at its own budget; a single one may stand for itself.
        out: the run directory: new, empty, of the very same configuration, or of a run that failed before it had a
            result; a path, or an address that fsspec knows, such as ``s3://bucket/run``.
        batch_size: clips per batch. Batches are fixed by it; where memory runs out, a batch is attacked in halves.
        save_clips: number of clips, spread evenly over the data, whose clean and adversarial videos are kept.
        strict: end the run at the first clip that cannot be read, instead of recording it.
        surrogates: models to craft the clips on, instead of the model itself (a transfer attack).
        codecs: one or several re-encodings after which every clip is classified once more, e.g. ``h264:23``.
        defenses: purifiers, or their specs, to put in front of the model, each in turn; None, or "none", is the
            model as it is.
        trust: examine, when the run is finished, whether its numbers may be believed, and keep the answer in its
            ``trust.json`` (`robustvideo.evaluation.trust`).
        title: heading of the report.
        command: the command line to show in the report.
        device: where a model given as a spec is loaded.
        quiet: show no progress.
        engine: who works on it. "local": this process, with its fellows where ``accelerate launch`` or ``torchrun``
            started several; "ray": a Ray cluster. The records do not depend on it.

    Returns:
        The finished run.

    Raises:
        InputError: anything unusable in the arguments, or a model whose outputs do not fit.
        RunConflict: ``out`` belongs to another configuration or holds other files.
        RobustVideoError: the disk is full; what was written before is intact.
    """
    out = place(out)
    if isinstance(engine, str):
        engine = load_engine(engine)
    if batch_size < 1:
        raise InputError(f"A batch holds at least one clip, got batch_size={batch_size}.")
    configured, codecs = [_attack(one) for one in _each(attacks)], _each(codecs)
    is_named = isinstance(model, str)
    model_spec = model if isinstance(model, str) else f"{type(model).__module__}.{type(model).__qualname__}"
    if isinstance(model, str):
        model = load_model(model, device=device)
    check_model(model)
    if isinstance(data, str):
        data = load_data(data, labels=model.labels)
    if not isinstance(data, VideoDataset):
        raise InputError(f"{type(data).__name__} is no data set: give a spec, or what rv.load_data(spec) returns.")
    if len(data) == 0:
        raise InputError(f"The data set {data.spec} has no clips.")
    purifiers = [_defense(one) for one in _each(defenses)]
    defended = _behind(model, purifiers)
    if len(defended) < max(len(purifiers), 1):
        raise InputError("Name at least one defence, none of them twice (None is the model as it is).")
    configuration = {
        "model": model_spec,
        "model_digest": digest_of(model),
        "data": data.spec,
        "data_fingerprint": data.fingerprint(),
        "attacks": [attack.spec for attack in configured],
        "batch_size": batch_size,
        "save_clips": save_clips,
        "surrogates": {surrogate.name: surrogate.digest for surrogate in surrogates},
        "codecs": list(codecs),
        "defenses": [[name, digest_of(m.network) if isinstance(m, Defended) else ""] for name, m in defended.items()],
    }
    if not is_named or code_of(model):  # of a name, the spec says all
        configuration["model_settings"] = settings_of(model)
    runner = Runner(
        defended,
        data,
        configured,
        out,
        batch_size=batch_size,
        save_clips=save_clips,
        strict=strict,
        surrogates=surrogates,
        codecs=codecs,
    )
    manifest = Manifest(
        robustvideo=environment().get("robustvideo", ""),
        created=now(),
        title=title,
        command=command,
        configuration=configuration,
        items=runner.batches * runner.items_per_batch,
        model={
            "spec": model_spec,
            "labels": None if model.labels is None else list(model.labels),
            "parameters": sum(p.numel() for p in model.parameters()),
            "frames": model.frames,
            "size": model.size,
        },
        data={"spec": data.spec, "clips": len(data), "labels": list(data.labels)},
        environment={**environment(), "device": str(device_of(model))},
    )
    with at_work(out) if engine.is_main else nullcontext():
        if engine.is_main:
            _forget(start_run(out, manifest), runner)
        engine.wait()
        run, done = open_run(out), finished_items(out)
        engine.wait()  # nobody writes before everybody knows what there is
        if engine.is_main and not done:
            _tell_doubts(run, runner)
        clips = sum(len(runner.members(_batch_of(name))) for name in done)
        total = len(data) * runner.items_per_batch
        with track(model_spec, total, done=clips, quiet=quiet or not engine.is_main) as advance:
            engine.run(runner, done, advance)
        if engine.is_main:
            merge_shards(out, least=MERGED_FROM)
            run.manifest.status = "finished"
            run.save()
            if trust:
                examine_run(run, defended, data, configured, quiet=quiet)
        engine.wait()
    return open_run(out)


def _each(given: Any) -> list[Any]:
    """The members of a sequence; what is none, or a single word, is its own."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def _attack(given: object) -> Attack:
    if isinstance(given, str):
        return load_attack(given)
    if not isinstance(given, Attack):
        raise InputError(f"{type(given).__name__} is no attack: give a spec, or what rv.load_attack(spec) returns.")
    return given


def _defense(given: object) -> Purifier | None:
    if isinstance(given, str):
        return None if given.strip() == NO_DEFENSE else load_defense(given)
    if given is not None and not isinstance(given, Purifier):
        raise InputError(f"{type(given).__name__} is no defence: give a spec, or what rv.load_defense(spec) returns.")
    return given


def evaluate_suite(
    suite: Suite,
    out: Path,
    *,
    device: str = "cpu",
    strict: bool = False,
    command: str = "",
    quiet: bool = False,
    engine: Name = "local",
) -> list[Run]:
    """Run a suite: one run directory per model, ``out`` itself when there is one model and no surrogate.

    Raises:
        InputError, RunConflict, RobustVideoError: see `evaluate`.
    """
    attacks, defenses = suite.build_attacks(), suite.build_defenses()
    surrogates = [Surrogate(s, load_model(s, device=device), out / "crafted") for s in suite.transfer_from]
    runs = []
    for spec in suite.models:
        runs.append(
            evaluate(
                spec,
                suite.data,
                attacks,
                out=out if len(suite.models) == 1 and not surrogates else out / slug(spec),
                batch_size=suite.batch_size,
                save_clips=suite.save_clips,
                strict=strict,
                surrogates=surrogates,
                codecs=suite.codecs,
                defenses=defenses,
                trust=suite.examined,
                title=suite.title,
                command=command,
                device=device,
                quiet=quiet,
                engine=engine,
            )
        )
    return runs


def _behind(model: Model, defenses: Sequence[Purifier | None]) -> dict[str, Model]:
    """Name -> the model behind each purifier, in their order; purifiers that can share a network hold it once."""
    models: dict[str, Model] = {}
    holders: dict[Hashable, Defended] = {}
    for purifier in defenses:
        if purifier is None:
            models[NO_DEFENSE] = model
            continue
        holder = holders.get(purifier.weights)
        shared = None if holder is None else holder.shared_with(purifier)
        holders[purifier.weights] = models[purifier.spec] = Defended(model, purifier, shared)
    return models


def _tell_doubts(run: Run, runner: Runner) -> None:
    """Warn of what the model's first answers say against its numbers, and keep it for the report."""
    doubts = runner.doubts()
    if not doubts:
        return
    for said in doubts:
        warnings.warn(said, RobustVideoWarning, stacklevel=3)
    run.manifest.model["doubts"] = doubts
    run.save()


def _batch_of(item: str) -> int:
    return int(item.partition("-")[0])


def _forget(run: Run, runner: Runner) -> None:
    """Undo the batches of clips of which the data set says something else now than when they could not be read.

    Whole batches, because what an item yields depends on the clips of its batch.

    Raises:
        UnusableClip: a clip still cannot be read, and the runner is strict.
    """
    rows = run.columns()
    lost = rows.where(rows.status != "ok")
    reasons = dict(zip(lost.sample_id.tolist(), lost.message.tolist(), strict=True))
    places = {sample.id: index for index, sample in enumerate(runner.data.samples)}
    changed = [clip for clip, reason in reasons.items() if _reason(places[clip], runner) != reason]
    stale = {places[clip] // runner.batch_size for clip in changed}
    if not stale:
        return
    run.manifest.status = "running"
    run.save()
    (run.path / TRUST).unlink(missing_ok=True)
    _split(run)
    for item in sorted(finished_items(run.path), reverse=True):  # what tells of the unusable clip goes last
        if _batch_of(item) in stale:
            shard(run.path, item).unlink(missing_ok=True)


def _reason(index: int, runner: Runner) -> str:
    """Why a clip cannot be read; empty when it can."""
    try:
        runner.data.clip(index)
    except UnusableClip as error:
        if runner.strict:
            raise
        return str(error)
    return ""


def _split(run: Run) -> None:
    """Give every work item a shard of its own again, so that one can be deleted."""
    merged = list((run.path / "records").glob("merged-*.parquet"))
    if not merged:
        return
    items: dict[str, list[Record]] = {item: [] for item in finished_items(run.path)}
    for record in run.records():
        items[record.item].append(record)
    for item, records in items.items():
        write_shard(shard(run.path, item), records)
    for path in merged:
        path.unlink(missing_ok=True)
