"""`fastest`: rank mixers x backbones x backends on this machine at one number of tokens, within a time budget.

`networks` finds what can be ranked, `cases` says what one timing is, `worker` times cases in a process of its own,
`process` starts that process again after a fault, `search` decides what to time next, `crossings` looks for the lengths
at which linear-time networks overtake attention, and `findings` holds the result.
"""
