"""What a run is to do, as data: the typed recipe, its checks, its files."""
