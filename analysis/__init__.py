"""The laboratory: experiments on low-precision floating point, run from a checkout with ``python -m analysis``."""
