"""Small real training in NumPy: real data, explicit forward and backward passes, nothing hidden behind autograd.

`digits` loads the data, `mlp` holds the network and its two passes, `capture` trains and keeps the gradients of chosen
steps, `emulated` repeats a backward pass with every tensor rounded to a low-precision format, `agreement` compares two.
"""
