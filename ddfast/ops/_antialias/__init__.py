"""Triton helpers shared by the ops that resize crops (multi_crop and mosaic); not an op."""
