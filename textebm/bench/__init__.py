"""How fast textebm is, beside a plain implementation of the published settings, on the machine at hand."""
