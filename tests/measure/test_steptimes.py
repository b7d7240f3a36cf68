import pandas as pd
from diffusers import DDPMScheduler

from frugal.measure import steptimes
from frugal.models import zoo

from .test_experiments import network


def test_networks_take_turns_in_every_round_and_asking_again_measures_nothing(store):
    pair = [zoo.Model(name, "memory", network(size=size), DDPMScheduler()) for name, size in (("fine", 16), ("coarse", 8))]
    begun = []
    for model in pair:
        model.unet.register_forward_pre_hook(lambda *_, name=model.name: begun.append(name))
    times = steptimes.step_seconds(pair, rounds=2, scale="smoke")
    assert list(times.columns) == ["model", "round", "seconds"] and (times.seconds > 0).all()
    assert times.groupby("model")["round"].apply(list).to_dict() == {"fine": [0, 1], "coarse": [0, 1]}
    assert begun[2 * steptimes.WARMUP :] == ["fine", "coarse", "coarse", "fine"]  # the second round is the first backwards
    pd.testing.assert_frame_equal(steptimes.step_seconds(pair, rounds=2, scale="smoke"), times)
    assert len(begun) == 2 * (steptimes.WARMUP + 2)
