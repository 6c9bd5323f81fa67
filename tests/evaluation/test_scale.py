"""Many clips: memory that does not grow, time that does so linearly, few files; and work divided by what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "benchmarks" / "scale.py"


def in_a_fresh_process(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    path = os.pathsep.join([str(BENCHMARK.parent), str(ROOT / "tests")])
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, env=settings, check=True, capture_output=True, text=True, timeout=280).stdout


@pytest.mark.slow
def test_five_thousand_clips(tmp_path: Path) -> None:
    code = """
    import json, sys
    from pathlib import Path
    import scale
    print(json.dumps(scale.simulate(5000, Path(sys.argv[1]), batch_size=4)))
    """
    marks = json.loads(in_a_fresh_process(code, tmp_path / "run"))
    seconds, megabytes = zip(*marks, strict=True)
    assert len(marks) == 10
    assert megabytes[-1] - megabytes[1] < 40
    first, second = seconds[4] - seconds[0], seconds[9] - seconds[5]
    assert 0.4 < second / first < 2.5
    assert len(list((tmp_path / "run" / "records").iterdir())) <= 1 + 2500 // 512

    from robustvideo.report import build_report

    assert "<dt>Clips</dt><dd>5000" in build_report([tmp_path / "run"]).read_text()


@pytest.mark.slow
def test_whoever_is_slow_gets_less(tmp_path: Path) -> None:
    """Two processes, of which one needs four times as long for a clip: counts differ as costs do."""
    code = """
    import os, sys, time
    from pathlib import Path
    import torch
    import scale
    from robustvideo.attacks import FGSM
    from robustvideo.evaluation import evaluate
    from robustvideo.evaluation.runner import Runner

    class Sluggish(scale.Grey):
        def clip(self, index):
            time.sleep(0.2 if os.environ["RANK"] == "1" else 0.05)
            return super().clip(index)

    worked = []
    do = Runner.do
    Runner.do = lambda self, item: (worked.append(item.batch), do(self, item))
    evaluate(scale.Brightness(), Sluggish(80), [FGSM(eps=8 / 255)], out=sys.argv[1], batch_size=2, save_clips=0,
             quiet=True)
    Path(sys.argv[1] + "-" + os.environ["RANK"]).write_text(str(len(set(worked))))
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    path = os.pathsep.join([str(BENCHMARK.parent), str(ROOT / "tests")])
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    subprocess.run([*command, str(tmp_path / "run")], env=settings, check=True, capture_output=True, timeout=280)
    quick, slow = (int((tmp_path / f"run-{rank}").read_text()) for rank in (0, 1))
    assert quick + slow == 40
    assert quick > 1.5 * slow > 0
