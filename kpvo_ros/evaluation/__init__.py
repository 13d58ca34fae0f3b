"""Evaluation: trajectory files, association, alignment, metrics, and the report with its plots."""
