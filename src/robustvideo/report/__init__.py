"""The report: one self-contained page about a run, or a comparison of several."""

from __future__ import annotations

from robustvideo.report.page import build_report as build_report
