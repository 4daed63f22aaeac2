"""An exported network, rewritten: lower precision, paddings turned into the convolutions' own."""
