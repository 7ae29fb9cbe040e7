"""A bench of known densities: each prior learns from exact draws and is compared with the truth."""
