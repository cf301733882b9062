"""Small real training in NumPy: real data, explicit forward and backward passes, nothing hidden behind autograd.

Training by recipe: `recipes` says what every tensor is kept and multiplied in, `numerics` runs a recipe, `layers` and `losses` are the
passes, `networks` the MLP, the convolutional net, the GPT and the detector, `optimizers` the updates, `trainer` the loop; `digits`, `text` and
`scenes` are the data, `small_tasks` puts them together for experiments.

One backward pass looked at closely (e01): `mlp`, `capture` (gradients of chosen steps), `emulated` (the pass again with every tensor
rounded), `agreement` (one gradient against another).
"""
