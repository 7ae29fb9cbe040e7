"""What a person looks at: code cards, the latent map, and one self-contained page that holds them."""
