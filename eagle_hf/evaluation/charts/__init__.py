"""The report: one HTML page of charts, from what was measured; the same charts as pictures."""

from eagle_hf.evaluation.charts.page import report_page, write_pictures
from eagle_hf.evaluation.charts.sources import Source, Sources, read_sources

__all__ = ["Source", "Sources", "read_sources", "report_page", "write_pictures"]
