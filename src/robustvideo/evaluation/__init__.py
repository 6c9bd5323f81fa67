"""Evaluation: suites, runs, records and metrics."""

from robustvideo.evaluation.evaluation import evaluate as evaluate
from robustvideo.evaluation.run import Run as Run
from robustvideo.evaluation.run import open_run as open_run
