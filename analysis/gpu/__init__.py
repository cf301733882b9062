"""What real GPUs did: recorded where there is one, replayed and compared anywhere (``python -m analysis.gpu``)."""
