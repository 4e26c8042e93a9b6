"""The colours of all plots, with the marks that set lines apart without them."""

# after Okabe and Ito, contrast to the page at least 3:1, told apart under each kind of colour vision; with markers and
# dashes every line differs from any other in more than its colour
LINES = ("#0072b2", "#d55e00", "#00865f", "#b5588f", "#3a1c7a", "#2d93c9")
LINES_ON_DARK = ("#5db3ea", "#ff8c4d", "#35c79c", "#e794c4", "#7a6cf0", "#9fd3f5")  # in the same order
MARKERS = "osD^vPpX"
DASHES = ("-", "--", ":")
GREY = "#808080"  # a line that is there to compare with
# tokens over a spectrogram: neighbours differ
TOKENS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#eeca3b", "#9d755d", "#ff9da6")
DROPPED = "#8a8a8a"
