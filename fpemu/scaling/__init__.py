"""Scales: of losses (``loss_policies``, ``loss``, ``loss_simulation``)."""
