import pytest

from trainlab.optim import lr_curve


def test_a_curve_is_sampled_evenly_over_the_whole_training():
    assert lr_curve.sampled(lambda step, steps: step / steps, 4) == [0, 0.25, 0.5, 0.75]
    long = lr_curve.sampled(lambda step, steps: step / steps, 4019)
    assert len(long) == 201 and long[1] == 20 / 4019 and long[-1] > 0.995


@pytest.mark.parametrize(
    "curve, share",
    [
        ([1.0] * 10 + [0.01] * 90, 0.1),
        ([0.5] * 20 + [0.004] * 80, 0.2),  # of the peak, not of 1
        ([0.5] * 21 + [0.004] * 79, None),  # more than a fifth
        ([1.0] * 5 + [0.0] * 94 + [1.0], None),  # it comes back
        ([1.0] * 2 + [0.0] * 17, None),  # too few places to say
        ([0.0] * 50, None),
        ([], None),
    ],
)
def test_a_schedule_that_ends_early(curve, share):
    assert lr_curve.ends_early(curve) == share
