"""One file an experiment: question, published claims, plan, measure, draw, verdict. The contract is ``analysis.experiment``."""
