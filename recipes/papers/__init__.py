"""The tables of the papers whose methods are here, one command each, for whoever has the weights and a GPU."""
