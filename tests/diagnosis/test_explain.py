"What is explained is true: what steppers read and write, what a step costs, which engine runs it, and what its kernel is."
import re
import warnings
from functools import partial
from html.parser import HTMLParser

import pytest
import torch
from cases import CASES
from helpers import params, set_grads

import optimcb as oc
from optimcb import Adam, Lamb, Lookahead, Optimizer, RAdam, sgd_step
from optimcb.diagnosis.explain import Explanation
from optimcb.diagnosis.source import Source
from optimcb.engines import c_compiler
from optimcb.tracing.recording import NotRecorded


def stepped(opt, ps, steps=2):
    for i in range(steps):
        set_grads(ps, i)
        opt.step()
    return opt


def row(explanation, name): return next(r for r in explanation.steppers if r['stepper'].startswith(name))


def test_each_stepper_tells_what_it_reads_and_writes():
    e = Adam(params(), lr=0.1).explain()
    assert [(r['stepper'], r['reads'], r['writes']) for r in e.steppers] == [
        ('weight_decay', ['p', 'lr', 'wd'], ['p']), ('average_grad(dampening=True)', ['p.grad', 'mom', 'grad_avg'], ['grad_avg']),
        ('average_sqr_grad', ['p.grad', 'sqr_mom', 'sqr_avg'], ['sqr_avg']), ('step_stat', ['step'], ['step']),
        ('adam_step', ['p', 'lr', 'mom', 'step', 'sqr_mom', 'grad_avg', 'sqr_avg', 'eps'], ['p'])]
    assert row(e, 'step_stat')['doc'].startswith('Count the steps')
    assert row(oc.Adam(params(), lr=0.1, decouple_wd=False).explain(), 'l2_reg')['writes'] == ['p.grad']


@pytest.mark.parametrize('name, ours', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_state_is_counted_as_it_will_be(name, ours):
    "Before the first step, and after some"
    ps = params([(3, 4), (5,), (2, 3, 2, 2)]) + params([(7,)], torch.float64)
    opt = ours(ps, lr=0.01)
    before = opt.explain().state_bytes
    stepped(opt, ps, 3)
    there = sum(v.nbytes for s in opt.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    assert before == opt.explain().state_bytes == there
    assert opt.explain().state.keys() == {k for s in opt.state.values() for k in s}


def test_a_table_that_is_wider_than_a_page_stands_upright():
    "In a notebook: a row for each hyper-parameter, a column for each group"
    def rows(opt): return re.findall('<tr.*?</tr>', opt._repr_html_().partition('hyper-parameters')[2].partition('</table>')[0])
    head, *groups = rows(Adam([params()[:2], params()[2:]], lr=0.5))
    assert '<th>lr</th>' in head and len(groups) == 2 and all('0.5' in g for g in groups)
    upright = rows(oc.route(hidden=(oc.Muon, oc.by_ndim(2, 4)), rest=oc.AdamW)(params(), lr=0.5))
    mom, = [r for r in upright if 'hidden_mom<' in r]
    assert len(upright) > 10 and '<code>0.95</code>' in mom and all(r.count('<td>') <= 2 for r in upright)


def test_bytes_that_are_moved_are_those_of_what_is_loaded_and_stored():
    ps = [torch.nn.Parameter(torch.ones(1000)), torch.nn.Parameter(torch.ones(10, 10))]
    def moved(make): return make(ps, lr=0.1).explain().moved_bytes
    assert moved(oc.SGD) == 12*1100 and moved(Adam) == 28*1100 and moved(partial(oc.SGD, mom=0.9)) == 20*1100
    assert moved(Lamb) == (16 + 28)*1100 # all is read once more, for the norms
    low = [torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))]
    assert oc.SGD(low, lr=0.1).explain().moved_bytes == 6*1000
    e = Adam(ps + low, lr=0.1).explain()
    assert e.bytes_each == ('4–8', '14–28') and e.moved_bytes == 28*1100 + 14*1000


@pytest.mark.parametrize('make', [Adam, Lamb, RAdam, partial(Adam, engine='eager'), partial(Adam, engine='foreach'),
                                  lambda ps, lr: Optimizer(ps, [lambda p, lr: p.data.sub_(p.grad, alpha=lr*p.grad.abs().max().item())], lr=lr),
                                  lambda ps, lr: Optimizer(ps, [lambda p, lr: print(end='') or p.data.sub_(p.grad, alpha=lr)], lr=lr),
                                  lambda ps, lr: Lookahead(Adam(ps, lr=lr)), oc.ranger, lambda ps, lr: Adam(ps, lr=torch.tensor(lr)), lambda ps, lr: Adam([ps[:2], ps[2:]], lr=slice(lr/10, lr))])
def test_everything_is_explained_before_and_after_steps(make):
    ps = params()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt = make(ps, lr=0.1)
        first = str(opt.explain())
        stepped(opt, ps)
        for text in (first, str(opt.explain())):
            assert all(s.label in text for s in opt.composition.steppers) and re.search(r'engine\n  \w+', text)
        html = opt._repr_html_()
    assert 'steppers' in html and '<table' in html


def test_the_engine_is_named_and_why_it_is_not_a_faster_one():
    def engine(opt): return '\n'.join(opt.explain().engine)
    assert engine(Adam(params(), lr=0.1)) == 'fused, in C: 1 kernel for 4 parameters'
    assert engine(Adam([params()[:2], params()[2:]], lr=0.1, wd=[0., 0.1])) == 'fused, in C: 2 kernels for 4 parameters'
    assert engine(Adam(params(), lr=0.1, engine='eager')) == 'eager: 4 parameters, for that is the one asked for'
    assert engine(Adam(params(), lr=0.1, engine='foreach')) == 'foreach: 4 parameters'
    def asks(p, lr): p.data.sub_(p.grad, alpha=lr*p.grad.abs().max().item())
    opt = Optimizer(ps := params(), asks, lr=0.1)
    said = engine(opt)
    assert said.startswith('eager: 4 parameters, for stepper `asks` at test_explain.py:') and 'it makes a number of a tensor' in said
    with pytest.warns(UserWarning, match='it makes a number of a tensor'): stepped(opt, ps)
    assert engine(opt) == said
    odd = Adam([torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)),
                torch.nn.Parameter(torch.ones(0))], lr=0.1)
    assert engine(odd).splitlines() == ['fused, in C: 1 kernel for 1 parameter', 'eager: 1 parameter, for it is of torch.complex64', 'eager: 1 parameter, for it is empty']
    def by_shape(p, lr): p.data.sub_(p.grad if p.dim() < 2 else p.grad @ p.grad.T @ p.grad, alpha=lr)
    some = Optimizer(ps := params([(3, 3), (2, 2), (4,)]), by_shape, lr=0.1)
    before = engine(some)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        stepped(some, ps, 3)
    assert engine(some) == before and 'fused, in C: 1 kernel for 1 parameter\neager: 2 parameters, for stepper `by_shape`' in before
    whole = torch.ones(6)
    alike = Adam([torch.nn.Parameter(whole[:4]), torch.nn.Parameter(whole[2:])], lr=0.1)
    assert engine(alike) == 'eager: 2 parameters, for it shares memory with another'
    assert engine(Optimizer(params(), asks, lr=0.1,
                            engine='fused')).startswith('none: 4 parameters, for stepper `asks`')


def test_functions_between_kernels_are_named():
    "With the parameters that they are called for; the others have a kernel of their own"
    ps = params([(3, 4)]*12 + [(5,)]*3)
    engine = oc.Muon(ps, lr=0.1).explain().engine
    assert engine == ['fused, in C: 1 kernel for 3 parameters',
                      'fused, in C: kernels around `orthogonalized` for 12 parameters']


def test_the_old_name_of_warnings_warns():
    with pytest.warns(DeprecationWarning, match='`warnings`'): assert Adam.explain().doubts == []


def test_state_that_the_user_put_there_is_known():
    def masked(p, mask): p.grad = p.grad*mask
    opt = Optimizer(ps := params(), [masked, sgd_step], lr=0.1, check=False)
    assert 'needs `mask`' in str(opt.explain()) and 'needs `mask`' in opt._repr_html_()
    for p in ps: opt.state[p]['mask'] = torch.ones_like(p)
    masks = sum(p.nbytes for p in ps)
    assert opt.explain().state_bytes == masks and Adam.insert(masked, before=0)(params(), lr=0.1, check=False).explain()
    stepped(opt, ps)
    assert opt.formula.text == 'grad = grad*mask\np = p - lr*grad' and 'fused' in opt.explain().engine[0] and opt.kernel()


def test_lazy_parameters_are_explained():
    assert 'Adam' in str(Adam(torch.nn.LazyLinear(3).parameters(), lr=0.1).explain())


def test_optimizers_of_numbers_are_explained(): assert 'sgd_step' in str(Optimizer([1, 2], sgd_step, lr=0.1).explain())


def test_without_a_compiler_that_is_said(monkeypatch):
    monkeypatch.setenv('CC', '/nonexistent')
    c_compiler.compiler.cache_clear()
    try: assert 'there is no C compiler' in Adam(params(), lr=0.1).explain().engine[0]
    finally:
        monkeypatch.undo()
        c_compiler.compiler.cache_clear()


def test_the_kernel_is_the_one_that_runs(monkeypatch):
    built = []
    real = c_compiler.function
    monkeypatch.setattr(c_compiler, 'function', lambda source, name: built.append(source) or real(source, name))
    opt = Adam(ps := params(), lr=0.1)
    source = opt.kernel()
    stepped(opt, ps, 3)
    assert isinstance(source, Source) and built[-1].split() == source.split() == Adam.kernel().split()
    assert '// S[0]: 1 - lr*wd' in repr(source) and '// m2: grad_avg' in repr(source) and 'kernel.h' not in repr(source)
    assert source._repr_markdown_().startswith('```c\n')
    with pytest.raises(NotRecorded): Optimizer(params(), lambda p: p.data.mul_(p.grad.max().item())).kernel()
    with pytest.raises(ValueError, match="none for 'tpu'"): Adam.kernel('tpu')


def test_the_kernel_for_a_gpu_can_be_seen_without_one():
    pytest.importorskip('triton')
    assert '@triton.jit' in Adam.kernel('cuda') and '# s1: 1 - mom' in repr(Adam.kernel('cuda')) or 'mom' in repr(Adam.kernel('cuda'))


class Tags(HTMLParser):
    "What opens and is not closed"
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs): self.open += [tag] if tag not in ('br', 'hr') else []
    def handle_endtag(self, tag): assert self.open.pop() == tag


BY_TORCH = dict( # functions that torch runs between kernels
    Muon=['orthogonalized'], Shampoo=['added_grams', 'roots_of', 'preconditioned'], SOAP=['eigenbases', 'mixed_grams', 'rotate'],
    Adafactor=['mean_sqrs', 'mixed', 'over_factored'], SM3=['least_cover', 'maxima'])


@pytest.mark.parametrize('o', [o for o in vars(oc).values() if isinstance(o, oc.Algorithm)], ids=lambda o: o.__name__)
def test_algorithms_are_shown_without_parameters(o):
    e = o.explain()
    assert isinstance(e, Explanation) and str(e).startswith(o.__name__) and '\nformula' in str(e)
    tags = Tags()
    tags.feed(html := e._repr_html_())
    assert not tags.open and '$$' in html and all(s.label in html for s in o.composition.steppers) and '…' in html
    functions = BY_TORCH.get(o.__name__)
    kernels = f"kernels around {', '.join(f'`{k}`' for k in functions)}" if functions else '1 kernel'
    assert not e.warnings and e.engine == [f'fused, in C: {kernels} for any parameters']


def test_warnings_and_what_is_html_are_shown():
    opt = Optimizer(params(), [oc.average_sqr_grad, sgd_step, lambda p: None], lr=0.1, check=False)
    assert '\nwarnings\n' in str(opt.explain()) and 'no other stepper reads' in opt._repr_html_() and '&lt;lambda&gt;' in opt._repr_html_()


def test_groups_with_formulas_of_their_own_are_told_apart():
    ps = params([(3,), (2, 2), (3,), (2, 2)])
    e = Adam([{'params': ps[:2]}, {'params': ps[2:], 'wd': 0.}], lr=0.1).explain()
    assert [f.when for f in e.formulas] == [''] and 'wd' in e.formulas[0].text # it holds for both
    def by_kind(p, lr, kind=1.): p.data.sub_(p.grad if kind == 1. else p.grad.sign(), alpha=lr)
    e = Optimizer([{'params': ps[:2]}, {'params': ps[2:], 'kind': 2.}], by_kind, lr=0.1).explain()
    assert [f.when for f in e.formulas] == ['of group 0', 'of group 1']
    assert [f.text.splitlines()[0] for f in e.formulas] == ['# while kind == 1', '# while kind != 1']
    def by_shape(p, lr): p.data.sub_(p.grad if p.ndim > 1 else p.grad.sign(), alpha=lr)
    e = Optimizer(ps, by_shape, lr=0.1).explain()
    assert [f.when for f in e.formulas] == ['of group 0, float32 with 1 dimension', 'of group 0, float32 with 2 dimensions']


def test_explaining_changes_nothing():
    opt = stepped(Adam(ps := params(), lr=0.1), ps)
    before, rng = [p.detach().clone() for p in ps], torch.get_rng_state()
    state = {p: dict(opt.state[p]) for p in ps}
    str(opt.explain()), opt._repr_html_(), opt.kernel(), opt.formula
    assert all(map(torch.equal, ps, before)) and torch.equal(rng, torch.get_rng_state())
    assert all(opt.state[p].keys() == s.keys() and all(opt.state[p][k] is v for k, v in s.items())
               for p, s in state.items())


def test_frozen_parameters_cost_nothing():
    ps = [torch.nn.Parameter(torch.ones(1000), requires_grad=False), torch.nn.Parameter(torch.ones(9))]
    opt = Adam(ps, lr=0.1)
    ps[1].grad = torch.ones(9)
    for _ in range(2):
        e = opt.explain()
        assert (e.state_bytes, e.moved_bytes, e.engine) == (72, 252, ['fused, in C: 1 kernel for 1 parameter']) and '2 (1 frozen)' in str(e)
        opt.step()


def test_wrapped_optimizers_say_so():
    assert Lookahead(Adam(params(), lr=0.1)).explain().title == 'Lookahead of Adam' and oc.ranger(params(), lr=0.1).explain().title == 'Lookahead of RAdam'
    assert not Optimizer(params([(3,), (2, 2)]), lambda p, lr: p.data.sub_(p.grad, alpha=lr) if p.dim() > 1 else None, lr=0.1).explain().warnings
