"""How many labels diffusers' transformer has where ours has none. Knows no torch."""

NUM_LABELS = 1
"""of the table that is written: fewer diffusers has not; its row, and that of no label, are 0"""
