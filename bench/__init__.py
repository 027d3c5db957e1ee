"""Figures: measured on real servers, printed with the machine they were taken on."""
