"""The latent-variable model of text: its module, its objective, how it is built and saved."""
