"What is public works in a function that `torch.compile` compiles as it does outside of it, and the model is compiled all the same."
import copy
import re
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._guards import TracingContext, tracing
from torch.optim import lr_scheduler
from torch.utils._pytree import tree_leaves

import optimcb as oc

X = torch.linspace(-1, 1, 15).reshape(5, 3)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
    torch._dynamo.reset()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def made(algo=oc.AdamW, wrapper=lambda opt: opt):
    "A model and its optimizer, with gradients, after a step"
    model = net()
    opt = wrapper(algo([list(model[0].parameters()), list(model[2].parameters())], lr=0.1))
    model(X).sum().backward()
    if isinstance(opt, oc.SAM): opt.ascend()
    opt.step()
    return model, opt


def train(x, model, opt):
    loss = model(x).pow(2).mean()
    loss.backward()
    opt.step()
    opt.zero_grad()
    return loss


# Each name that is public, and what is done with it: what comes out depends on it

def written(name, value):
    def f(x, model, opt):
        setattr(opt, name, value(opt))
        return train(x, model, opt), opt.hypers[0]['lr']
    return f


def with_closure(x, model, opt):
    def closure():
        opt.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        return loss
    return opt.step(closure)


def scaled_groups(x, model, opt):
    for g in opt.param_groups:
        g['lr'] *= 0.5
        g['betas'] = (0.8, 0.9)
    return train(x, model, opt), x*opt.param_groups[0]['betas'][1]


def names_in_groups(x, model, opt):
    g = opt.param_groups[-1]
    there = x*('betas' in g) + ('nobody' in g), x*g.get('momentum', 3) + g.get('nobody', 7)
    return there, x*g['lr'] + g['mom'], x*len(opt.param_groups), x*len({**g})


def loop_of_ones_own(x, model, opt):
    with torch.no_grad():
        for p, _, state, hyper in opt.all_params(with_grad=True):
            for cb in opt.cbs: state.update(cb(p, **{**state, **hyper}) or {})
    return model(x)


def evaluated(x, model, opt):
    opt.eval()
    y = model(x)
    opt.train()
    with opt.averaged(): z = model(x)
    return y, z, train(x, model, opt)


def ascended(x, model, opt):
    model(x).pow(2).mean().backward()
    opt.ascend()
    up = opt.is_up, model(x)
    opt.descend()
    opt.ascend()
    opt.zero_grad()
    return up, train(x, model, opt)


def in_and_out(x, model, opt):
    sd = opt.state_dict()
    train(x, model, opt)
    opt.load_state_dict(sd)
    return train(x, model, opt), x*sd['param_groups'][0]['lr']


def edited(x, model, opt):
    opt.replace('weight_decay', oc.l2_reg)
    opt.insert(oc.centralize, before=0)
    opt.rename('l2_reg', wd='decay')
    opt.set_hyper('decay', 0.3)
    opt.wrap(oc.clip_value)
    opt.remove('centralize')
    loss = train(x, model, opt)
    opt.replace('l2_reg', oc.weight_decay)
    opt.edit(lambda cbs: [f for f in cbs if f is not oc.clip_value])
    return loss, train(x, model, opt), x*len(opt.cbs), x*len(opt.composition.steppers)


def hooked(x, model, opt):
    handles = [opt.register_step_pre_hook(lambda opt, *a: opt.set_hyper('lr', 0.7)),
               opt.register_step_post_hook(lambda opt, *a: opt.set_hyper('eps', 0.1)),
               opt.register_state_dict_pre_hook(lambda opt: opt.set_hyper('mom', 0.1)),
               opt.register_state_dict_post_hook(lambda opt, sd: {**sd, 'hypers': []}),
               opt.register_load_state_dict_pre_hook(lambda opt, sd: None),
               opt.register_load_state_dict_post_hook(lambda opt: None)]
    loss = train(x, model, opt)
    opt.load_state_dict(opt.state_dict())
    for h in handles: h.remove()
    return loss, x*opt.hypers[0]['lr']


def grown(x, model, opt):
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    opt.add_param_group({'params': [p], 'lr': 0.5})
    return train(x, model, opt), p, x*opt.param_groups[-1]['lr']


def frozen(x, model, opt):
    opt.freeze()
    y = x*opt.frozen_idx
    opt.freeze_to(1)
    opt.unfreeze()
    return y, train(x, model, opt)


def shown(x, model, opt):
    return x*len(str(opt.explain())) + len(opt.kernel('cpu')), x*len(str(opt.formula)) + len(repr(opt))


def of_state(x, model, opt):
    own = opt.state[model[0].weight]
    return x*own['step'], own['grad_avg']*2, [x*s['step'] for s in opt.state.values()]


def cleared(x, model, opt): return [opt.clear_state(), x*len(opt.state), train(x, model, opt)]
def dropped(x, model, opt):
    return [train(x, model, opt), opt.zero_grad(set_to_none=True), x*(model[0].weight.grad is None)]


def set_one_and_all(x, model, opt):
    opt.set_hyper('lr', 0.3)
    opt.set_hypers(lr=slice(0.1, 0.2), mom=0.5)
    return train(x, model, opt)


def of_all(x, model, opt): return [p*h['lr'] + s['step'] for p, _, s, h in opt.all_params(with_grad=True)]


WORKS = dict( # what is done, and the names that it is of
    step=(train, 'step zero_grad'), closure=(with_closure, 'step'), zero_grad=(dropped, 'zero_grad'),
    zeroing=(lambda x, model, opt: [setattr(opt, 'zero_in_step', True), train(x, model, opt)], 'zero_in_step'),
    param_groups=(names_in_groups, 'param_groups'), writes=(scaled_groups, 'param_groups'),
    new_groups=(written('param_groups', lambda opt: [dict(g, lr=0.3) for g in opt.param_groups]), 'param_groups'),
    hypers=(lambda x, model, opt: [x*h['lr'] + h['mom'] for h in opt.hypers], 'hypers'),
    new_hypers=(written('hypers', lambda opt: [{**h, 'lr': 0.3} for h in opt.hypers]), 'hypers'),
    set_hyper=(set_one_and_all, 'set_hyper set_hypers'),
    param_lists=(lambda x, model, opt: [p.sum()*x for ps in opt.param_lists for p in ps], 'param_lists'),
    new_lists=(written('param_lists', lambda opt: [list(ps) for ps in opt.param_lists]), 'param_lists'),
    tracked=(lambda x, model, opt: x*len(opt.tracked), 'tracked'),
    state_dict_on=(lambda x, model, opt: x*len(opt.state_dict_on('cpu')['state']), 'state_dict_on'),
    all_params=(of_all, 'all_params'), own_loop=(loop_of_ones_own, 'all_params'), state=(of_state, 'state'),
    new_state=(written('state', lambda opt: copy.copy(opt.state)), 'state'), clear_state=(cleared, 'clear_state'),
    state_dict=(in_and_out, 'state_dict load_state_dict'), freezing=(frozen, 'freeze freeze_to unfreeze'),
    add_param_group=(grown, 'add_param_group'), engine=(written('engine', lambda opt: 'eager'), 'engine'),
    averages=(evaluated, 'eval train averaged'),
    editing=(edited, 'replace insert remove rename edit wrap composition'), shown=(shown, 'explain formula kernel'),
    defaults=(lambda x, model, opt: x*opt.defaults['betas'][0] + opt.defaults['lr'], 'defaults'),
    hooks=(hooked, ' '.join(f'register_{o}_hook' for k in ('step', 'state_dict', 'load_state_dict') for o in (f'{k}_pre', f'{k}_post'))))

NOT_ON_CPU = {'before_replay'} # is called between replays of a CUDA graph
OF_ENGINES = {'forget_runner', 'pending_masks', 'step_target'} # what an engine calls, inside of a step
NOT_OURS = {'OptimizerPreHook', 'OptimizerPostHook', 'profile_hook_step'} # types and a static method of torch


def simple(ps, lr):
    return oc.Optimizer(ps, [oc.weight_decay, oc.average_grad, oc.momentum_step], lr=lr, mom=0.9, wd=0.1)


MADE = dict(own_loop=simple, averages=lambda ps, lr: oc.AdamW(ps, lr=lr).wrap(oc.look_ahead()))


def outcome(f, make, wrap):
    "What three calls return, and what they leave: parameters, hyper-parameters and state"
    model, opt = make()
    f = wrap(partial(f, model=model, opt=opt))
    outs = [f(X*(i + 1)) for i in range(3)]
    tensors = [t.detach().clone() for t in [*tree_leaves(outs), *model.parameters()] if isinstance(t, torch.Tensor)]
    states = [sorted(opt.state[p]) for p in model.parameters()]
    others = [o for o in tree_leaves(outs) if not isinstance(o, torch.Tensor)]
    return tensors, others, [dict(h) for h in opt.hypers], states


def same_when_compiled(f, make=made, backend='eager'):
    want = outcome(f, make, lambda f: f)
    torch._dynamo.reset()
    got = outcome(f, make, lambda f: torch.compile(lambda x: f(x), backend=backend))
    assert len(want[0]) == len(got[0]) > 0
    for a, b in zip(want[0], got[0]): torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
    assert want[1:] == got[1:]


@pytest.mark.parametrize('f', [pytest.param(f, id=k) for k, (f, _) in WORKS.items()])
def test_each_public_name(f):
    name = next(k for k, (o, _) in WORKS.items() if o is f)
    same_when_compiled(f, partial(made, MADE.get(name, oc.AdamW)))

def test_no_name_was_forgotten():
    done = {k for _, names in WORKS.values() for k in names.split()}
    assert {k for k in dir(oc.Optimizer) if not k.startswith('_')} - done == NOT_ON_CPU | NOT_OURS | OF_ENGINES

@pytest.mark.parametrize('algo', [oc.SGD, oc.Lamb, oc.Shampoo, oc.Muon, oc.ScheduleFreeAdamW,
                                  partial(oc.Adam, engine='eager'), partial(oc.Adam, engine='foreach')])
def test_algorithms(algo): same_when_compiled(train, partial(made, algo))

@pytest.mark.parametrize('wrapper, f', [
    (oc.Lookahead, lambda x, model, opt: [train(x, model, opt), x*opt.count + opt.k + opt.alpha, opt.slow_weights[0][0]*2]),
    (oc.Lookahead, lambda x, model, opt: [setattr(opt, 'k', 2), opt.set_hyper('alpha', 0.3), train(x, model, opt)]),
    (oc.Lookahead, in_and_out), (oc.SAM, with_closure), (oc.SAM, ascended)])
def test_wrappers(wrapper, f): same_when_compiled(f, partial(made, oc.SGD, wrapper))

@pytest.mark.parametrize('f', [train, names_in_groups, scaled_groups])
def test_inductor(f): same_when_compiled(f, backend='inductor')


# What is made in a compiled function, and what was taken out of an optimizer before

def test_made_inside():
    def f(x, model, opt):
        inner = oc.Adam(model.parameters(), lr=0.1, decouple_wd=False, wd=0.1)
        plain = oc.Optimizer(model.parameters(), [oc.average_grad, oc.momentum_step], lr=0.1, mom=0.9)
        return train(x, model, inner), train(x, model, plain), train(x, model, oc.Lookahead(plain)), x*len(inner.cbs)
    same_when_compiled(f)

def test_model_and_optimizer_of_a_function():
    def run(wrap):
        def once(seed):
            model, opt = made()
            f = wrap(lambda x: train(x, model, opt))
            return [f(X*seed).item() for _ in range(3)]
        return [once(i) for i in range(8)] # each is gone when the next one comes
    want = run(lambda f: f)
    assert all(a == pytest.approx(b, rel=1e-5)
               for a, b in zip(run(partial(torch.compile, backend='eager')), want, strict=True))

def test_groups_and_hypers_that_are_held():
    def make():
        model, opt = made()
        opt.held = opt.param_groups[0], opt.hypers, opt.state[model[0].weight]
        return model, opt
    def f(x, model, opt, held):
        group, hypers, state = held
        y = x*group['lr'] + group['betas'][0] + ('momentum' in group) + len(dict(group)), x*hypers[0]['mom'], state['grad_avg']*2
        group['betas'] = (0.7, 0.8)
        hypers[1]['lr'] = hypers[0]['lr']*2
        return y, train(x, model, opt)
    same_when_compiled(lambda x, model, opt: f(x, model, opt, opt.held), make)

def test_steppers():
    def f(x, model, opt):
        p = model[0].weight
        with torch.no_grad():
            state = oc.average_grad(p, mom=0.9, grad_avg=None)
            state = oc.average_grad(p, mom=0.9, **state)
            oc.weight_decay(p, lr=0.1, wd=0.5)
            oc.apply_update(p, lr=0.1, **oc.clip_update(p, update=state['grad_avg'], max_update=0.1))
        return state['grad_avg']*x.sum(), p*x.sum()
    same_when_compiled(f)

@pytest.mark.parametrize('f', [
    lambda x, model, opt: train(x, model, oc.no_wd(opt, oc.by_ndim(1))), lambda x, model, opt: x*len(oc.to_torch(opt)['state']),
    lambda x, model, opt: [s['grad_avg']*2 for s in oc.named_state(opt, model).values()]], ids=['rules', 'torch', 'named'])
def test_functions_of_an_optimizer(f): same_when_compiled(f)

def test_files(tmp_path):
    def f(x, model, opt):
        oc.save_state(opt, tmp_path/'opt.pt', extra=dict(n=3))
        train(x, model, opt)
        return x*oc.load_state(opt, tmp_path/'opt.pt')['n'], train(x, model, opt)
    same_when_compiled(f)

def test_steps_in_backward():
    def make():
        model, opt = made()
        oc.step_in_backward(opt)
        return model, opt
    same_when_compiled(train, make)

def test_curvature():
    def f(x, model, opt):
        loss = model(x).pow(2).mean()
        oc.update_hessian(opt, oc.hutchinson(loss, list(model.parameters())))
        return opt.state[model[0].weight]['hess_avg']*2, train(x, model, opt)
    def make():
        model, opt = made(oc.Sophia)
        torch.manual_seed(0)
        return model, opt
    same_when_compiled(f, make)

def test_bound_methods():
    "`torch.compile(opt.step)`, as for torch's optimizers"
    def trained(wrap):
        model, opt = made()
        step, clear = wrap(opt.step), wrap(opt.zero_grad)
        for i in range(3):
            model(X*i).pow(2).mean().backward()
            step()
            clear()
        return list(model.parameters())
    for a, b in zip(trained(partial(torch.compile, backend='eager')),
                    trained(lambda f: f)): torch.testing.assert_close(a, b)


# Schedulers, and who else wraps an optimizer

SCHEDULERS = dict(
    step=partial(lr_scheduler.StepLR, step_size=1, gamma=0.5), cosine=partial(lr_scheduler.CosineAnnealingLR, T_max=9),
    one_cycle=partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=20),
    cyclic=partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3),
    function=partial(lr_scheduler.LambdaLR, lr_lambda=lambda i: 1/(i + 1)),
    in_turn=lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]),
    averaged=partial(torch.optim.swa_utils.SWALR, swa_lr=0.3), plateau=partial(lr_scheduler.ReduceLROnPlateau, patience=0))

@pytest.mark.parametrize('scheduler', SCHEDULERS)
def test_schedulers(scheduler):
    def make():
        model, opt = made()
        opt.sched = SCHEDULERS[scheduler](opt)
        return model, opt
    def f(x, model, opt):
        loss = train(x, model, opt)
        opt.sched.step(*[3.]*(scheduler == 'plateau'))
        return loss, x*opt.param_groups[0]['lr'], x*opt.sched.get_last_lr()[1]
    same_when_compiled(f, make)

def test_accelerate():
    accelerate = pytest.importorskip('accelerate')
    accelerate.Accelerator(cpu=True)
    def make():
        model, opt = made()
        opt.wrapped = accelerate.optimizer.AcceleratedOptimizer(opt)
        return model, opt
    def f(x, model, opt): return train(x, model, opt.wrapped), x*opt.wrapped.param_groups[0]['betas'][0]
    try: same_when_compiled(f, make)
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()

def test_lightnings_wrapper():
    optimizer = pytest.importorskip('lightning.pytorch.core.optimizer')
    def make():
        model, opt = made()
        opt.wrapped = optimizer.LightningOptimizer(opt)
        return model, opt
    def f(x, model, opt):
        y = x*opt.wrapped.param_groups[0]['betas'][0] + opt.wrapped.hypers[0]['lr']
        opt.wrapped.zero_grad()
        return y, train(x, model, opt)
    same_when_compiled(f, make)


# What is compiled, and what isn't

def test_the_model_is_compiled_once():
    "No change of a learning rate, no step and no name of a group compiles anything again"
    graphs = []
    def backend(graph, example):
        graphs.append(graph)
        return graph
    model, opt = made()
    sched = lr_scheduler.ExponentialLR(opt, 0.9)
    def f(x):
        loss = train(x, model, opt)
        sched.step()
        return loss
    compiled = torch.compile(f, backend=backend)
    for _ in range(12): compiled(X)
    assert len(graphs) == 1 and any('tanh' in str(n.target) for n in graphs[0].graph.nodes)

def test_one_graph_is_refused_in_words():
    "torch's optimizers keep plain dicts in `param_groups`, whose numbers can be constants of a graph"
    model, opt = made()
    with pytest.raises(torch._dynamo.exc.Unsupported, match='Read what is needed of it before'):
        torch.compile(lambda x: model(x)*opt.param_groups[0]['lr'], backend='eager', fullgraph=True)(X)
    lr = opt.param_groups[0]['lr']
    torch.testing.assert_close(torch.compile(lambda x: model(x)*lr, backend='eager', fullgraph=True)(X), model(X)*lr)

def test_the_compiler_is_not_imported(tmp_path):
    "It takes a second, and who doesn't compile doesn't need it"
    code = ("import sys, torch, optimcb as oc; p = torch.nn.Parameter(torch.ones(3)); o = oc.Adam([p], lr=0.1); p.grad = torch.ones(3)\n"
            "o.step(); o.zero_grad(); o.set_hyper('lr', 0.2); o.state_dict(); o.param_groups[0]['betas']; o.explain(); print('torch._dynamo' in sys.modules)")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True).stdout.strip() == 'False'

def test_a_graph_that_runs_the_step_itself_reads_groups():
    "Who runs Python to record it, as `make_fx` and AOTAutograd do, may read `param_groups`: that is nothing of the compiler's own way"
    _, opt = made()
    with tracing(TracingContext(None)): assert opt.param_groups[0]['betas'] == (0.9, 0.999)


# The compiler has nothing to say of the library

QUIET = '''
import warnings, torch, optimcb as oc
warnings.simplefilter('always')
m = torch.nn.Linear(2, 2)
opt = oc.Adam(m.parameters(), lr=0.1)
'''
QUIETLY = dict(
    scaler='''scaler = torch.amp.GradScaler('cpu', init_scale=4.)
def f(x):
    scaler.scale(m(x).sum()).backward()
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()''',
    backward='''oc.step_in_backward(opt)
def f(x):
    m(x).sum().backward()
    opt.step()''',
    groups='''sched = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9)
def f(x):
    m(x).sum().backward()
    opt.step()
    sched.step()
    opt.zero_grad()
    opt.param_groups[0]['wd'] = 0.1
    opt.param_groups[0].update(eps=1e-3, betas=(0.8, 0.9))''')

@pytest.mark.parametrize('name', QUIETLY)
def test_the_compiler_warns_of_nothing(name):
    "In a process of its own: it warns once"
    code = f"{QUIET}{QUIETLY[name]}\nf = torch.compile(f, backend='eager')\nfor _ in range(3): f(torch.ones(1, 2))\nprint(m.weight.isfinite().all())"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and not re.search('Dynamo (does not|detected)|optimcb', done.stderr), done.stderr
