"""Tensors to tensors: encoders, decoders and the energy network."""
