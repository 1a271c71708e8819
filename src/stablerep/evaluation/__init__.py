"""Encoders measured on real labelled data, painters measured by what a classifier sees in their pictures."""
