"The pictures: paths on test functions, curves, schedules."
import re
import runpy
import sys
from functools import partial

import numpy as np
import pytest
import torch
from fastcore.foundation import L

from optimcb import SGD, Adam, Optimizer, average_grad, momentum_step, sgd_step, weight_decay
from optimcb.problems import PROBLEMS, Problem, as_problem, path, ravine, rosenbrock

mpl = pytest.importorskip('matplotlib')
mpl.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

from optimcb.plots import _named, animate_paths, plot_curves, plot_layers, plot_paths, plot_sched  # noqa: E402

OPTS = {'sgd': partial(SGD, lr=0.1, engine='eager'), 'adam': partial(Adam, lr=0.3, engine='eager')}


@pytest.fixture(autouse=True)
def no_figures_stay():
    yield
    plt.close('all')


def lines(ax): return [np.stack(o.get_data(), 1) for o in ax.lines]
def legend(ax): return [o.get_text() for o in ax.get_legend().get_texts()]


# Problems and paths

def f_and_grad(p, xy):
    xy = torch.tensor(xy, dtype=torch.float64, requires_grad=True)
    value = p.f(*xy)
    return value.item(), torch.autograd.grad(value, xy)[0].numpy()


@pytest.mark.parametrize('p', PROBLEMS.values(), ids=PROBLEMS)
def test_problems(p):
    assert PROBLEMS[p.name] is p
    inside = [xy for xy in (p.start, p.minimum) if xy]
    assert all(p.xlim[0] < x < p.xlim[1] and p.ylim[0] < y < p.ylim[1] for x, y in inside)
    x, y = torch.meshgrid(*(torch.linspace(*lim, 301, dtype=torch.float64) for lim in (p.xlim, p.ylim)), indexing='xy')
    z = p.f(x, y)
    assert z.shape == x.shape and z[20, 30] == p.f(x[20, 30], y[20, 30])
    for xy in [p.minimum] if p.minimum else [(0, 2), (0, -2)]:
        value, grad = f_and_grad(p, xy)
        assert np.abs(grad).max() < 1e-14 and value <= z.min()
    assert f_and_grad(p, p.start)[0] > z.min()


def test_values_of_problems():
    values = dict(rosenbrock=24.2, beale=14.203125, ravine=6.45, saddle=1.5**2) # at the start, in Moré et al. for the first two
    for k, v in values.items(): assert f_and_grad(PROBLEMS[k], PROBLEMS[k].start)[0] == pytest.approx(v, abs=1e-3)


def test_saddle_is_one():
    saddle = PROBLEMS['saddle']
    hessian = torch.autograd.functional.hessian(saddle.f, (torch.tensor(0.), torch.tensor(0.)))
    assert saddle.minimum is None and not f_and_grad(saddle, (0, 0))[1].any()
    assert torch.equal(torch.tensor(hessian), torch.tensor([[2., 0.], [0., -2.]]))


@pytest.mark.parametrize('engine', ['eager', 'auto'])
def test_path_is_the_loop_by_hand(engine):
    x, y = ravine.start
    by_hand = [(x, y)]
    for _ in range(20):
        x, y = x - 0.3*x/10, y - 0.3*2*y
        by_hand.append((x, y))
    res = path(SGD, ravine, steps=20, lr=0.3, engine=engine)
    assert res.shape == (21, 2) and res.dtype == np.float64 and tuple(res[0]) == ravine.start
    np.testing.assert_allclose(res, by_hand, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize('name', PROBLEMS)
@pytest.mark.parametrize('ours, theirs', [
    (partial(SGD, mom=0.9, lr=1e-3), partial(torch.optim.SGD, momentum=0.9, lr=1e-3)),
    (partial(Adam, lr=0.02, wd=0., sqr_mom=0.999, eps=1e-8), partial(torch.optim.Adam, lr=0.02))], ids=['momentum', 'adam'])
def test_path_is_that_of_torch(name, ours, theirs):
    assert np.ptp(path(theirs, name), axis=0).max() > 0.1 # it goes somewhere
    np.testing.assert_allclose(path(ours, name, engine='eager'), path(theirs, name), rtol=1e-10, atol=1e-12)


def test_path_takes_fastais_optimizers_too():
    fastai = pytest.importorskip('fastai.optimizer')
    np.testing.assert_allclose(path(partial(fastai.SGD, mom=0.9), 'ravine', lr=0.05),
                               path(SGD, 'ravine', lr=0.05, mom=0.9, engine='eager'))


def test_path_that_diverges_is_nan_to_the_end():
    res = path(SGD, rosenbrock, steps=50, lr=1., engine='eager')
    n = np.isfinite(res).all(1).sum()
    assert 1 < n < 20 and np.isfinite(res[:n]).all() and np.isnan(res[n:]).all() and res.shape == (51, 2)


def test_path_from_elsewhere():
    assert path(SGD, 'beale', steps=0, start=(2, 1), lr=0.1).tolist() == [[2, 1]]
    with pytest.raises(ValueError, match=r'two finite numbers, x and y, but is \(1, 2, 3\)'):
        path(SGD, ravine, start=(1, 2, 3), lr=0.1)
    with pytest.raises(ValueError, match='two finite numbers'): path(SGD, ravine, start=(1, np.nan), lr=0.1)


def test_problems_by_name():
    assert as_problem('ravine') is ravine is as_problem(ravine)
    with pytest.raises(ValueError, match='no problem \'rosenbrok\'. Did you mean `rosenbrock`.* There are rosenbrock, beale'):
        path(SGD, 'rosenbrok', lr=0.1)
    with pytest.raises(TypeError, match='must be a `Problem` or a name, but is 3'): plot_paths(OPTS, 3)


# Pictures of paths

def test_lines_are_paths():
    ax = plot_paths(OPTS, ravine, steps=30)
    for (k, o), xy, line, text in zip(OPTS.items(), lines(ax), ax.lines, legend(ax)):
        expected = path(o, ravine, 30)
        assert np.array_equal(xy, expected) and line.get_markevery() == [30]
        name, value = text.split(': ')
        assert name == k and float(value) == pytest.approx(f_and_grad(ravine, expected[-1])[0], rel=0.05)
    assert [xy.tolist() for xy in lines(ax)[2:]] == [[[-7, 2]], [[0, 0]]] and legend(ax)[2:] == ['start', 'minimum']
    assert ax.get_xlim() == ravine.xlim and ax.get_ylim() == ravine.ylim and ax.get_title() == 'ravine'


def test_a_diverged_path_is_marked_where_it_was_last():
    ax = plot_paths({'fast': partial(SGD, lr=1., engine='eager')}, steps=50)
    ax.figure.canvas.draw()
    assert legend(ax)[0] == 'fast: diverged'
    assert ax.lines[0].get_markevery() == [np.isfinite(lines(ax)[0]).all(1).sum() - 1]


def test_axes_of_ones_own():
    _, (left, right) = plt.subplots(1, 2)
    assert plot_paths(OPTS, 'saddle', steps=3, ax=left) is left and not right.lines
    assert legend(left)[2:] == ['start'] # two minima


def test_contours_are_of_the_logarithm_where_values_span_decades():
    def spread(problem):
        levels = plot_paths(OPTS, problem, steps=1).collections[1].levels
        return levels.min() < 0 # of a logarithm
    assert spread('rosenbrock') and spread('beale') and not spread('ravine') and not spread('saddle')


def test_problems_of_ones_own():
    flat, log = (Problem(k, f, (0.5, 1.)) for k, f in dict(flat=lambda x, y: 0*(x+y), log=lambda x, y: (x+y).log()).items())
    assert not plot_paths(OPTS, flat, steps=2).collections
    assert plot_paths(OPTS, log, steps=2).collections # not defined everywhere


def test_names_of_a_list():
    opts = [partial(SGD, lr=0.1, mom=0.9), torch.optim.Adam,
            partial(torch.optim.Adam, lr=0.2, betas=(0.5, 0.9)), partial(Optimizer, cbs=[sgd_step], lr=0.1)]
    ax = plot_paths(opts, ravine, steps=1)
    assert [t.split(':')[0] for t in legend(ax)[:4]] == ['SGD(lr=0.1, mom=0.9)', 'Adam', 'Adam(lr=0.2, betas=(0.5, 0.9))', 'Optimizer(sgd_step, lr=0.1)']


@pytest.mark.parametrize('cbs, name', [
    (sgd_step, 'Optimizer(sgd_step)'), ((weight_decay, sgd_step), 'Optimizer(weight_decay, sgd_step)'), (L(sgd_step), 'Optimizer(sgd_step)'),
    ([None, partial(average_grad, dampening=True), momentum_step], 'Optimizer(average_grad(dampening=True), momentum_step)')])
def test_an_optimizer_without_a_name_is_called_by_its_steppers(cbs, name):
    assert list(_named([partial(Optimizer, cbs=cbs)])) == [name]
    with pytest.raises(TypeError, match=f'but is {re.escape(name)}'): _named(partial(Optimizer, cbs=cbs))


@pytest.mark.parametrize('opts, error', [
    ({}, '`opt_funcs` is empty'), ([], '`opt_funcs` is empty'), (OPTS['sgd'], '`opt_funcs` must be a dict of names and what to draw'),
    ({'sgd': 0.1}, "'sgd' in `opt_funcs` must be called .* but is 0.1. Pass e.g. partial"),
    ([partial(Optimizer, cbs=[sgd_step], lr=0.1) for _ in range(2)], r'more than one Optimizer\(sgd_step, lr=0.1\). Pass a dict')])
def test_optimizers_that_cannot_be_drawn(opts, error):
    for draw in (plot_paths, animate_paths):
        with pytest.raises((TypeError, ValueError), match=error): draw(opts)
    assert not plt.get_fignums()


@pytest.mark.parametrize('style', ['default', 'dark_background'])
def test_pictures_follow_the_style(style):
    with plt.style.context(style):
        ink, paper = (mpl.colors.to_rgb(plt.rcParams[k]) for k in ('text.color', 'axes.facecolor'))
        ax = plot_paths(OPTS, ravine, steps=2)
        *paths, start, minimum = ax.lines
        assert [o.get_color() for o in paths] == plt.rcParams['axes.prop_cycle'].by_key()['color'][:2]
        assert mpl.colors.to_rgb(start.get_markeredgecolor()) == mpl.colors.to_rgb(minimum.get_markerfacecolor()) == ink != paper
        assert {tuple(c[:3]) for o in ax.collections for c in (*o.get_edgecolor(), *o.get_facecolor())} == {ink}


# Animations

def test_frames_of_an_animation():
    anim = animate_paths(OPTS, 'ravine', steps=20, every=8)
    assert not plt.get_fignums() # a notebook shows the animation, and no still
    ax, shown = anim._fig.axes[0], []
    for i in anim.new_frame_seq():
        anim._draw_frame(i)
        shown.append(i)
        for o, xy, line in zip(OPTS.values(), lines(ax), ax.lines):
            assert np.array_equal(xy, path(o, 'ravine', 20)[:i+1]) and line.get_markevery() == [i] and ax.get_title() == f'ravine, step {i}'
    assert shown == [0, 8, 16, 20] and len(lines(ax)[0]) == 21
    anim._draw_was_started = True


@pytest.mark.parametrize('steps', [0, 1, 49, 50, 99, 1000])
def test_an_animation_has_no_more_than_50_frames(steps):
    anim = animate_paths({'sgd': torch.optim.SGD}, 'ravine', steps=steps)
    frames = list(anim.new_frame_seq())
    assert frames[0] == 0 and frames[-1] == steps and len(set(frames)) == len(frames) <= 50 and len(frames) >= min(steps+1, 26)
    anim._draw_was_started = True


def test_an_animation_of_what_diverges():
    anim = animate_paths({'fast': partial(SGD, lr=1., engine='eager')}, steps=20, every=20)
    for i in anim.new_frame_seq(): anim._draw_frame(i)
    line = anim._fig.axes[0].lines[0]
    anim._fig.canvas.draw()
    assert np.isfinite(np.stack(line.get_data(), 1)[line.get_markevery()]).all()
    anim._draw_was_started = True


def test_animations_are_shown_and_saved(tmp_path):
    image = pytest.importorskip('PIL.Image')
    anim = animate_paths(OPTS, steps=4, every=2, fps=20)
    anim.save(tmp_path/'x.gif', writer='pillow')
    with image.open(tmp_path/'x.gif') as gif:
        assert gif.n_frames == 3 and gif.info['duration'] == 50 and gif.size == (560, 320)
    html = anim._repr_html_()
    assert html.count('data:image/png;base64') == 3 and not plt.get_fignums()
    with pytest.raises(ValueError, match='`every` must be 1 or more steps, but is 0'): animate_paths(OPTS, every=0)


# Curves

def test_band_is_mean_and_deviation():
    c = np.random.default_rng(0).random((4, 30))
    ax = plot_curves({'four': c, 'one': c[0]}, xlabel='batch', ylabel='error')
    mean, sd = c.mean(0), c.std(0, ddof=1)
    np.testing.assert_allclose(lines(ax)[0], np.stack([np.arange(30), mean], 1))
    np.testing.assert_array_equal(lines(ax)[1][:, 1], c[0])
    band, = ax.collections # none for one seed
    corners = band.get_paths()[0].vertices
    for i in range(30):
        ys = corners[corners[:, 0] == i, 1]
        assert (ys.min(), ys.max()) == pytest.approx((mean[i]-sd[i], mean[i]+sd[i]))
    assert legend(ax) == ['four', 'one'] and (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ('batch', 'error', 'linear')


def test_curves_with_gaps_and_of_other_lengths():
    seeds = [[1., 2., np.nan, 4.], torch.tensor([3., np.inf]), [5., 6., np.nan]]
    ax = plot_curves({'c': seeds, 'short': [1, 2]})
    np.testing.assert_array_equal(lines(ax)[0][:, 1], [3, 4, np.nan, 4])
    np.testing.assert_array_equal(lines(ax)[1], [[0, 1], [1, 2]])
    ys = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert ys.min() == pytest.approx(1) and ys.max() == pytest.approx(4 + 8**0.5) # 3 ± 2 and 4 ± √8


def test_smoothing_is_debiased():
    x = np.random.default_rng(0).random(20)
    x[7] = np.inf
    y = lines(plot_curves({'c': x}, smooth=0.9))[0][:, 1]
    x[7] = np.nan
    for i in range(20):
        w = 0.9**np.arange(i, -1, -1) * ~np.isnan(x[:i+1])
        assert np.isnan(y[i]) if i == 7 else y[i] == pytest.approx(np.nansum(w*x[:i+1]) / w.sum())
    np.testing.assert_allclose(lines(plot_curves({'c': np.full(5, 3.)}, smooth=0.98))[0][:, 1], 3)


def test_a_band_on_a_logarithmic_axis_stays_above_zero():
    ax = plot_curves({'c': np.array([[0.1, 1.], [0.1, 1e-3], [0.2, 1e-3]])}, log=True)
    assert ax.get_yscale() == 'log' and ax.collections[0].get_paths()[0].vertices[:, 1].min() == 1e-3


@pytest.mark.parametrize('curves, kwargs, error', [
    ({}, {}, '`curves` is empty'), ([1, 2], {}, '`curves` must be a dict'),
    ({'a': 3}, {}, r"'a' in `curves` must have the shape \(steps,\) or \(seeds, steps\)"),
    ({'a': []}, {}, "'a' in `curves`"), ({'a': np.zeros((2, 3, 4))}, {}, "'a' in `curves`"), ({'a': [1, 2]}, dict(smooth=1), 'less than 1, but is 1')])
def test_curves_that_cannot_be_drawn(curves, kwargs, error):
    with pytest.raises((TypeError, ValueError), match=error): plot_curves(curves, **kwargs)
    assert not plt.get_fignums()


# Schedules

def test_schedules():
    axs = plot_sched({'lr': lambda pos: 1 - pos if type(pos) is float else np.nan, 'mom': [0.9, 0.8, 0.9],
                      'wd': lambda pos: np.array([pos, 2*pos])}, n=11)
    assert [ax.get_title() for ax in axs] == ['lr', 'mom', 'wd']
    pos = np.linspace(0, 1, 11)
    np.testing.assert_allclose(lines(axs[0]), [np.stack([pos, 1-pos], 1)])
    np.testing.assert_allclose(lines(axs[1]), [[[0, 0.9], [0.5, 0.8], [1, 0.9]]])
    np.testing.assert_allclose(lines(axs[2]), [np.stack([pos, k*pos], 1) for k in (1, 2)])


def test_schedules_of_fastai():
    schedule = pytest.importorskip('fastai.callback.schedule')
    scheds = {'lr': schedule.combined_cos(0.25, 1e-4, 1e-2, 1e-6), 'mom': schedule.SchedCos(0.95, 0.85),
              'wd': schedule.SchedPoly(0., 1., 2), 'eps': [1, 2]}
    axs = plot_sched(schedule.ParamScheduler(scheds).scheds, n=101)
    y = lines(axs[0])[0][:, 1]
    assert (y[0], y[25], y[-1]) == pytest.approx((1e-4, 1e-2, 1e-6)) and y.argmax() == 25 and len(axs[0].figure.axes) == 4
    assert lines(axs[2])[0][50].tolist() == [0.5, 0.25]


def test_schedules_on_axes_of_ones_own():
    _, axs = plt.subplots(1, 2)
    assert list(plot_sched({'lr': [1, 2], 'mom': [3, 4]}, axs=axs)) == list(axs)
    assert plot_sched({'lr': [1, 2]}, axs=axs[0])[0] is axs[0]
    with pytest.raises(ValueError, match='there are 2 axes for 1 pictures'): plot_sched({'lr': [1, 2]}, axs=axs)


@pytest.mark.parametrize('scheds, error', [
    ({}, '`scheds` is empty'), (lambda pos: pos, '`scheds` must be a dict'),
    ({'lr': 0.1}, "'lr' in `scheds` must be a function or a list of values, but is 0.1"),
    ({'lr': []}, r"'lr' in `scheds` has shape \(0,\)"), ({'lr': np.zeros((2, 2, 2))}, r"'lr' in `scheds` has shape \(2, 2, 2\)")])
def test_schedules_that_cannot_be_drawn(scheds, error):
    with pytest.raises((TypeError, ValueError), match=error): plot_sched(scheds)
    assert not plt.get_fignums()


def test_without_matplotlib(monkeypatch):
    for k in ('matplotlib', 'matplotlib.pyplot'): monkeypatch.setitem(sys.modules, k, None)
    plots = runpy.run_path(sys.modules['optimcb.plots'].__file__) # importing doesn't need it
    for k, arg in dict(plot_paths=OPTS, animate_paths=OPTS, plot_curves={'a': [1]}, plot_sched={'lr': [1]}).items():
        with pytest.raises(ImportError, match=r"Install it: pip install 'optimcb\[nbs\]'"): plots[k](arg)


@pytest.mark.parametrize('n', [9, 24, 25, 110])
def test_rows_of_a_picture_have_the_names_of_the_layers(n):
    "As many as there is room for, on the left"
    layers = [f'layer{i}.weight' for i in range(n)]
    axs = plot_layers({k: np.ones((3, n)) for k in 'abcd'}, layers)
    for ax, shown in zip(axs, (True, False, False, True)):
        rows, labels = ax.get_yticks(), [o.get_text() for o in ax.get_yticklabels()]
        assert labels == [layers[int(i)] if shown else '' for i in rows] and min(n, 12) <= len(rows) <= 24
    ax = plot_layers({'a': np.ones((3, n))}, layers, axs=plt.figure().add_axes((0, 0, 1, 1)))[0]
    assert ax.get_yticklabels()[0].get_text() == layers[0]
