"""The prior on latents: one equation, every system (shared formula in `textebm.prior.prior`)."""
