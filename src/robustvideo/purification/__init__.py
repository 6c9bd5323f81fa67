"""Purifiers in front of models. ``robustvideo list defenses`` names them all.

`Defended` puts one before a model; how its gradients pass is part of the purifier's configuration.
"""

from robustvideo.purification.defended import Defended as Defended
from robustvideo.purification.purifier import Purifier as Purifier
from robustvideo.purification.purifier import answering as answering
from robustvideo.purification.purifier import defenses as defenses
from robustvideo.purification.purifier import load_defense as load_defense
