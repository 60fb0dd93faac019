"Slow weights (Lookahead)."
from optimcb.composition.roles import part
from optimcb.composition.traits import stepper, weights_by

__all__ = ['slow_start', 'lookahead_step']


# Slow weights

K, ALPHA = 6, 0.5 # defaults of Lookahead
SLOW = 'set of slow weights' # the kind of Lookahead


@stepper
@part('first')
def slow_start(p,
    slow_avg=None, # State: the slow weights
    **kwargs):
    "Copy the weights before the first step, in `slow_avg`; comes first."
    if slow_avg is None: return {'slow_avg': p.data.clone()}


@stepper
@part('last', SLOW)
@weights_by(lambda p, slow_avg: slow_avg)
def lookahead_step(p,
    slow_avg, # State: the slow weights
    count=0, # State: fast steps done
    k=K, # Number of fast steps per slow step
    alpha=ALPHA, # Slow step as a fraction of the distance, 0 to 1
    **kwargs):
    """Every `k` steps, move the slow weights towards the weights and continue from there; comes last
    (Zhang et al. 2019, https://arxiv.org/abs/1907.08610, alg. 1)."""
    count += 1
    if count % k == 0:
        slow_avg.add_(p.data - slow_avg, alpha=alpha)
        p.data.copy_(slow_avg)
    return {'count': count}
