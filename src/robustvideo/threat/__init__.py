"""Threat models: what an adversary may change, and the check that it changed nothing else.

A threat model owns a *variable* z per clip (usually the perturbation itself) in a norm ball. It can draw a start,
turn z into a clip, project z back into the ball, round the result onto the grid of what a file can store, and
verify a finished adversarial clip. Attacks hold no knowledge of norms, boxes or masks.

`Linf`, `L2` and `L21` bound a perturbation of the pixels (or of the sound); `FlowField` bounds how far each pixel
may be moved; `AudioVisual` bounds pixels and waveform at once; `Joint` combines any several parts.
"""

from robustvideo.threat.audio_visual import AudioVisual as AudioVisual
from robustvideo.threat.balls import L2 as L2
from robustvideo.threat.balls import L21 as L21
from robustvideo.threat.balls import Linf as Linf
from robustvideo.threat.balls import NormBall as NormBall
from robustvideo.threat.flow import FlowField as FlowField
from robustvideo.threat.flow import warp as warp
from robustvideo.threat.joint import Joint as Joint
from robustvideo.threat.joint import with_budget as with_budget
from robustvideo.threat.part import GRID as GRID
from robustvideo.threat.part import Part as Part
from robustvideo.threat.part import ThreatModel as ThreatModel
from robustvideo.threat.part import threats as threats
from robustvideo.threat.warp_noise import WarpAndNoise as WarpAndNoise
from robustvideo.threat.warp_noise import WarpAndNoiseL21 as WarpAndNoiseL21
