"""How fast conversions are, beside their peers and beside a plain copy of the same bytes.

``python -m benchmarks run`` measures and writes results.json, from which ``python -m benchmarks tables`` writes tables.
"""
