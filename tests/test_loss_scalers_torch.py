"""Is the row of torch its own GradScaler, step by step? (``tox -e torch``)"""

import numpy as np
import pytest

from fpemu.scaling.loss import loss_scaler

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(("seed", "share"), [(0, 0.0), (1, 0.1), (2, 0.5), (3, 1.0)])
def test_grad_scaler(seed, share):
    rng = np.random.default_rng(seed)
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.amp.GradScaler("cpu", growth_interval=3)
    ours = loss_scaler("torch", interval=3)
    theirs.scale(torch.ones(1))  # it makes its scale now
    for _ in range(300):
        with torch.no_grad():
            weight.zero_()
        overflow = bool(rng.random() < share)
        gradient = np.float32(np.inf if overflow else rng.standard_normal())
        weight.grad = torch.tensor([gradient])
        with np.errstate(all="ignore"):
            expected = gradient * np.float32(ours.inverse)
        theirs.unscale_(optimizer)
        assert np.array_equal(weight.grad.numpy(), [expected], equal_nan=True)
        theirs.step(optimizer)
        theirs.update()
        applied = ours.step(overflow)
        assert applied == (weight.item() != 0)
        assert theirs.get_scale() == ours.scale


@pytest.mark.parametrize("init", [2.0**-127, 2.0**-128])
def test_poison_zone(init):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs, ours = torch.amp.GradScaler("cpu", init_scale=init), loss_scaler("torch", init=init)
    theirs.scale(torch.ones(1))
    weight.grad = torch.ones(1)
    theirs.step(optimizer)
    theirs.update()
    assert ours.step(False) and weight.item() == -ours.inverse
    assert (ours.dead_zone == "1/scale is infinite") == (init == 2.0**-128)
