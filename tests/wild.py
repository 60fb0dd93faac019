"Steppers in the words of other people: fastbook, the course before it, fastxtend, and optimizers as GitHub has them."
import math

import torch

# fastbook, chapter 16

def average_grad(p, mom, grad_avg=None, **kwargs):
    if grad_avg is None: grad_avg = torch.zeros_like(p.grad.data)
    return {'grad_avg': grad_avg*mom + p.grad.data}
def momentum_step(p, lr, grad_avg, **kwargs): p.data.add_(grad_avg, alpha=-lr)
def average_sqr_grad(p, sqr_mom, sqr_avg=None, **kwargs):
    if sqr_avg is None: sqr_avg = torch.zeros_like(p.grad.data)
    return {'sqr_avg': sqr_mom*sqr_avg + (1-sqr_mom)*p.grad.data**2}
def rms_prop_step(p, lr, sqr_avg, eps, grad_avg=None, **kwargs):
    denom = sqr_avg.sqrt().add_(eps)
    p.data.addcdiv_(p.grad, denom, value=-lr)
def weight_decay(p, lr, wd, do_wd=True, **kwargs):
    if do_wd and wd != 0: p.data.mul_(1 - lr*wd)
weight_decay.defaults = dict(wd=0.)
def l2_reg(p, lr, wd, do_wd=True, **kwargs):
    if do_wd and wd != 0: p.grad.data.add_(p.data, alpha=wd)

# The course of 2019, on torch 1.0

def old_weight_decay(p, lr, wd, **kwargs):
    p.data.mul_(1 - lr*wd)
    return p
def old_l2_reg(p, lr, wd, **kwargs):
    p.grad.data.add_(wd, p.data)
    return p
def old_sgd_step(p, lr, **kwargs):
    p.data.add_(-lr, p.grad.data)
    return p
def old_average_grad(p, mom, mom_damp, grad_avg=None, **kwargs):
    if grad_avg is None: grad_avg = torch.zeros_like(p.grad.data)
    grad_avg.mul_(mom).add_(mom_damp, p.grad.data)
    return {'grad_avg': grad_avg}
def old_average_sqr_grad(p, sqr_mom, sqr_damp, sqr_avg=None, **kwargs):
    if sqr_avg is None: sqr_avg = torch.zeros_like(p.grad.data)
    sqr_avg.mul_(sqr_mom).addcmul_(sqr_damp, p.grad.data, p.grad.data)
    return {'sqr_avg': sqr_avg}
def old_step_count(p, step=0, **kwargs): return {'step': step + 1}
def debias(mom, damp, step): return damp * (1 - mom**step) / (1 - mom)
def old_adam_step(p, lr, mom, mom_damp, step, sqr_mom, sqr_damp, grad_avg, sqr_avg, eps, **kwargs):
    debias1 = debias(mom, mom_damp, step)
    debias2 = debias(sqr_mom, sqr_damp, step)
    p.data.addcdiv_(-lr / debias1, grad_avg, (sqr_avg/debias2).sqrt() + eps)
    return p
def old_lamb_step(p, lr, mom, mom_damp, step, sqr_mom, sqr_damp, grad_avg, sqr_avg, eps, wd, **kwargs):
    debias1 = debias(mom, mom_damp, step)
    debias2 = debias(sqr_mom, sqr_damp, step)
    r1 = p.data.pow(2).mean().sqrt()
    step = (grad_avg/debias1) / ((sqr_avg/debias2).sqrt() + eps) + wd*p.data
    r2 = step.pow(2).mean().sqrt()
    p.data.add_(-lr * min(r1/r2, 10), step)
    return p
def old_lamb_step_mended(p, lr, mom, mom_damp, step, sqr_mom, sqr_damp, grad_avg, sqr_avg, eps, wd, **kwargs):
    debias1 = debias(mom, mom_damp, step)
    debias2 = debias(sqr_mom, sqr_damp, step)
    r1 = p.data.pow(2).mean().sqrt()
    step = (grad_avg/debias1) / ((sqr_avg/debias2).sqrt() + eps) + wd*p.data
    r2 = step.pow(2).mean().sqrt()
    p.data.add_(-lr * (r1/r2).clamp(max=10), step)
    return p

# fastxtend

def lion_step(p, lr, wd, beta1, beta2, grad_avg=None, do_wd=True, **kwargs):
    if do_wd and wd != 0: p.data.mul_(1 - lr*wd)
    if grad_avg is None: grad_avg = torch.zeros_like(p, memory_format=torch.preserve_format)
    update = grad_avg.mul(beta1).add(p.grad.data, alpha=1-beta1).sign_()
    p.data.add_(update, alpha=-lr)
    grad_avg.mul_(beta2).add_(p.grad.data, alpha=1-beta2)
    return {'grad_avg': grad_avg}
def adan_step(p, lr, eps, wd, beta1, beta2, beta3, paper_init=False, do_wd=True, step=0, grad_avg=None,
              diff_avg=None, nest_avg=None, prior_grad=None, **kwargs):
    dp, grad = p.data, p.grad.data
    if step == 0:
        grad_avg = torch.zeros_like(dp, memory_format=torch.preserve_format)
        diff_avg = torch.zeros_like(dp, memory_format=torch.preserve_format)
        nest_avg = torch.zeros_like(dp, memory_format=torch.preserve_format)
        prior_grad = grad.clone() if paper_init else torch.zeros_like(dp, memory_format=torch.preserve_format)
    step += 1
    diff = grad - prior_grad
    grad_avg = torch.lerp(grad, grad_avg, beta1)
    diff_avg = torch.lerp(diff, diff_avg, beta2)
    nest = grad + beta2*diff
    nest_avg = torch.addcmul(nest_avg*beta3, nest, nest, value=1-beta3)
    db1, db2, db3 = 1 - beta1**step, 1 - beta2**step, 1 - beta3**step
    update = (grad_avg/db1 + beta2*diff_avg/db2) / ((nest_avg/db3).sqrt() + eps)
    dp.sub_(update, alpha=lr)
    if do_wd and wd != 0: dp.div_(1 + lr*wd)
    return {'step': step, 'grad_avg': grad_avg, 'diff_avg': diff_avg, 'nest_avg': nest_avg, 'prior_grad': grad.clone()}

# GitHub

def lamb(p, lr, wd, eps, beta1=0.9, beta2=0.999, exp_avg=None, exp_avg_sq=None):
    "cybertronai/pytorch-lamb"
    grad = p.grad.data
    if grad.is_sparse: raise RuntimeError('Lamb does not support sparse gradients, consider SparseAdam instad.')
    if exp_avg is None:
        exp_avg = torch.zeros_like(p.data)
        exp_avg_sq = torch.zeros_like(p.data)
    exp_avg.mul_(beta1).add_(1 - beta1, grad)
    exp_avg_sq.mul_(beta2).addcmul_(1 - beta2, grad, grad)
    weight_norm = p.data.pow(2).sum().sqrt().clamp(0, 10)
    adam_step = exp_avg / exp_avg_sq.sqrt().add(eps)
    if wd != 0: adam_step.add_(wd, p.data)
    adam_norm = adam_step.pow(2).sum().sqrt()
    if weight_norm == 0 or adam_norm == 0:
        trust_ratio = 1
    else:
        trust_ratio = weight_norm / adam_norm
    p.data.add_(-lr * trust_ratio, adam_step)
    return {'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq}

def lamb_mended(p, lr, wd, eps, beta1=0.9, beta2=0.999, exp_avg=None, exp_avg_sq=None):
    grad = p.grad.data
    if exp_avg is None:
        exp_avg = torch.zeros_like(p.data)
        exp_avg_sq = torch.zeros_like(p.data)
    exp_avg.mul_(beta1).add_(1 - beta1, grad)
    exp_avg_sq.mul_(beta2).addcmul_(1 - beta2, grad, grad)
    weight_norm = p.data.pow(2).sum().sqrt().clamp(0, 10)
    adam_step = exp_avg / exp_avg_sq.sqrt().add(eps)
    if wd != 0: adam_step.add_(wd, p.data)
    adam_norm = adam_step.pow(2).sum().sqrt()
    trust_ratio = torch.where((weight_norm == 0) | (adam_norm == 0), 1, weight_norm / adam_norm)
    p.data.add_(-lr * trust_ratio, adam_step)
    return {'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq}

class LARC:
    "NVIDIA/apex"
    def __init__(self, trust_coefficient=0.02, clip=True, eps=1e-8):
        self.trust_coefficient, self.clip, self.eps = trust_coefficient, clip, eps
    def __call__(self, p, lr, wd):
        if p.grad is None: return
        param_norm = torch.norm(p.data)
        grad_norm = torch.norm(p.grad.data)
        if param_norm != 0 and grad_norm != 0:
            adaptive_lr = self.trust_coefficient * param_norm / (grad_norm + param_norm*wd + self.eps)
            if self.clip: adaptive_lr = min(adaptive_lr/lr, 1)
            p.grad.data += wd * p.data
            p.grad.data *= adaptive_lr

class LARCMended(LARC):
    def __call__(self, p, lr, wd):
        param_norm = torch.norm(p.data)
        grad_norm = torch.norm(p.grad.data)
        there = (param_norm != 0) & (grad_norm != 0)
        adaptive_lr = self.trust_coefficient * param_norm / (grad_norm + param_norm*wd + self.eps)
        if self.clip: adaptive_lr = (adaptive_lr/lr).clamp(max=1)
        p.grad.data += torch.where(there, wd * p.data, 0.)
        p.grad.data *= torch.where(there, adaptive_lr, 1.)

def radam(p, lr, wd, eps, beta1=0.9, beta2=0.999, step=0, exp_avg=None, exp_avg_sq=None):
    "LiyuanLucasLiu/RAdam"
    grad = p.grad.data.float()
    p_data_fp32 = p.data.float()
    if step == 0:
        exp_avg = torch.zeros_like(p_data_fp32)
        exp_avg_sq = torch.zeros_like(p_data_fp32)
    else:
        exp_avg = exp_avg.type_as(p_data_fp32)
        exp_avg_sq = exp_avg_sq.type_as(p_data_fp32)
    exp_avg_sq.mul_(beta2).addcmul_(1 - beta2, grad, grad)
    exp_avg.mul_(beta1).add_(1 - beta1, grad)
    step += 1
    beta2_t = beta2 ** step
    N_sma_max = 2 / (1 - beta2) - 1
    N_sma = N_sma_max - 2 * step * beta2_t / (1 - beta2_t)
    if N_sma >= 5:
        step_size = math.sqrt((1 - beta2_t) * (N_sma - 4) / (N_sma_max - 4) * (N_sma - 2) / N_sma * N_sma_max / (N_sma_max - 2)) / (1 - beta1 ** step)
    else: step_size = 1.0 / (1 - beta1 ** step)
    if N_sma >= 5:
        if wd != 0: p_data_fp32.add_(-wd * lr, p_data_fp32)
        denom = exp_avg_sq.sqrt().add_(eps)
        p_data_fp32.addcdiv_(-step_size * lr, exp_avg, denom)
        p.data.copy_(p_data_fp32)
    elif step_size > 0:
        if wd != 0: p_data_fp32.add_(-wd * lr, p_data_fp32)
        p_data_fp32.add_(-step_size * lr, exp_avg)
        p.data.copy_(p_data_fp32)
    return {'step': step, 'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq}

def centralized(p):
    "Gradient centralization, in lessw2020/Ranger"
    if p.grad.data.dim() > 1: p.grad.data.add_(-p.grad.data.mean(dim=tuple(range(1, p.grad.data.dim())), keepdim=True))
def lookahead(p, alpha=0.5, k=3, step=0, slow_buffer=None):
    "lessw2020/Ranger"
    if slow_buffer is None:
        slow_buffer = torch.empty_like(p.data)
        slow_buffer.copy_(p.data)
    if step % k == 0:
        slow_p = slow_buffer
        slow_p.add_(p.data - slow_p, alpha=alpha)
        p.data.copy_(slow_p)
    return {'slow_buffer': slow_buffer}

def adabelief(p, lr, wd, eps, beta1=0.9, beta2=0.999, step=0, exp_avg=None, exp_avg_var=None):
    "juntang-zhuang/Adabelief-Optimizer"
    grad = p.grad.data
    if step == 0:
        exp_avg = torch.zeros_like(p.data, memory_format=torch.preserve_format)
        exp_avg_var = torch.zeros_like(p.data, memory_format=torch.preserve_format)
    p.data.mul_(1.0 - lr * wd)
    step += 1
    bias_correction1 = 1 - beta1 ** step
    bias_correction2 = 1 - beta2 ** step
    exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
    grad_residual = grad - exp_avg
    exp_avg_var.mul_(beta2).addcmul_(grad_residual, grad_residual, value=1 - beta2)
    denom = (exp_avg_var.add_(eps).sqrt() / math.sqrt(bias_correction2)).add_(eps)
    p.data.addcdiv_(exp_avg, denom, value=-lr / bias_correction1)
    return {'step': step, 'exp_avg': exp_avg, 'exp_avg_var': exp_avg_var}

def adabound(p, lr, wd, eps, final_lr=0.1, gamma=1e-3, base_lr=0.01, step=0, exp_avg=None, exp_avg_sq=None,
             beta1=0.9, beta2=0.999):
    "Luolc/AdaBound"
    grad = p.grad.data
    if step == 0:
        exp_avg = torch.zeros_like(p.data)
        exp_avg_sq = torch.zeros_like(p.data)
    step += 1
    if wd != 0: grad = grad.add(wd, p.data)
    exp_avg.mul_(beta1).add_(1 - beta1, grad)
    exp_avg_sq.mul_(beta2).addcmul_(1 - beta2, grad, grad)
    denom = exp_avg_sq.sqrt().add_(eps)
    step_size = lr * math.sqrt(1 - beta2 ** step) / (1 - beta1 ** step)
    final_lr = final_lr * lr / base_lr
    lower_bound = final_lr * (1 - 1 / (gamma * step + 1))
    upper_bound = final_lr * (1 + 1 / (gamma * step))
    step_size = torch.full_like(denom, step_size)
    step_size.div_(denom).clamp_(lower_bound, upper_bound).mul_(exp_avg)
    p.data.add_(-step_size)
    return {'step': step, 'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq}

def old_amsgrad(p, lr, wd, eps, beta1=0.9, beta2=0.999, step=0, exp_avg=None, exp_avg_sq=None, max_exp_avg_sq=None):
    "torch.optim.Adam of torch 1.0, with amsgrad"
    grad = p.grad.data
    if step == 0:
        exp_avg = torch.zeros_like(p.data)
        exp_avg_sq = torch.zeros_like(p.data)
        max_exp_avg_sq = torch.zeros_like(p.data)
    step += 1
    if wd != 0: grad = grad.add(wd, p.data)
    exp_avg.mul_(beta1).add_(1 - beta1, grad)
    exp_avg_sq.mul_(beta2).addcmul_(1 - beta2, grad, grad)
    torch.max(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
    denom = max_exp_avg_sq.sqrt().add_(eps)
    step_size = lr * math.sqrt(1 - beta2 ** step) / (1 - beta1 ** step)
    p.data.addcdiv_(-step_size, exp_avg, denom)
    return {'step': step, 'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq, 'max_exp_avg_sq': max_exp_avg_sq}

def old_sgd(p, lr, wd, momentum=0.9, dampening=0.1, nesterov=False, momentum_buffer=None):
    "torch.optim.SGD of torch 1.0"
    d_p = p.grad.data
    if wd != 0: d_p.add_(wd, p.data)
    if momentum != 0:
        if momentum_buffer is None:
            buf = momentum_buffer = torch.clone(d_p).detach()
        else:
            buf = momentum_buffer
            buf.mul_(momentum).add_(1 - dampening, d_p)
        if nesterov: d_p = d_p.add(momentum, buf)
        else: d_p = buf
    p.data.add_(-lr, d_p)
    return {'momentum_buffer': momentum_buffer}

def novograd(p, lr, wd, eps, beta1=0.95, beta2=0.98, exp_avg=None, exp_avg_sq=None):
    "NVIDIA/DeepLearningExamples"
    grad = p.grad.data
    if exp_avg is None:
        exp_avg = torch.zeros_like(p.data)
        exp_avg_sq = torch.zeros([]).to(p.device)
    norm = torch.sum(torch.pow(grad, 2))
    if exp_avg_sq == 0: exp_avg_sq.copy_(norm)
    else: exp_avg_sq.mul_(beta2).add_(norm, alpha=1 - beta2)
    denom = exp_avg_sq.sqrt().add_(eps)
    grad.div_(denom)
    if wd != 0: grad.add_(p.data, alpha=wd)
    exp_avg.mul_(beta1).add_(grad)
    p.data.add_(exp_avg, alpha=-lr)
    return {'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq}

def diffgrad(p, lr, eps, beta1=0.9, beta2=0.999, step=0, exp_avg=None, exp_avg_sq=None, previous_grad=None):
    "shivram1987/diffGrad"
    grad = p.grad.data
    if step == 0:
        exp_avg = torch.zeros_like(p.data)
        exp_avg_sq = torch.zeros_like(p.data)
        previous_grad = torch.zeros_like(p.data)
    step += 1
    exp_avg.mul_(beta1).add_(1 - beta1, grad)
    exp_avg_sq.mul_(beta2).addcmul_(1 - beta2, grad, grad)
    denom = exp_avg_sq.sqrt().add_(eps)
    diff = abs(previous_grad - grad)
    dfc = 1. / (1. + torch.exp(-diff))
    exp_avg1 = exp_avg * dfc
    step_size = lr * math.sqrt(1 - beta2 ** step) / (1 - beta1 ** step)
    p.data.addcdiv_(-step_size, exp_avg1, denom)
    return {'step': step, 'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq, 'previous_grad': grad.clone()}

def adamod(p, lr, eps, beta1=0.9, beta2=0.999, beta3=0.999, step=0, exp_avg=None, exp_avg_sq=None, exp_avg_lr=None):
    "lancopku/AdaMod"
    if step == 0: exp_avg, exp_avg_sq, exp_avg_lr = (torch.zeros_like(p.data) for _ in range(3))
    step += 1
    exp_avg.mul_(beta1).add_(1 - beta1, p.grad.data)
    exp_avg_sq.mul_(beta2).addcmul_(1 - beta2, p.grad.data, p.grad.data)
    denom = exp_avg_sq.sqrt().add_(eps)
    step_size = torch.full_like(denom, lr * math.sqrt(1 - beta2 ** step) / (1 - beta1 ** step))
    step_size.div_(denom)
    exp_avg_lr.mul_(beta3).add_(1 - beta3, step_size)
    torch.min(step_size, exp_avg_lr, out=step_size)
    step_size.mul_(exp_avg)
    p.data.add_(-step_size)
    return {'step': step, 'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq, 'exp_avg_lr': exp_avg_lr}

def yogi(p, lr, eps, beta1=0.9, beta2=0.999, step=0, exp_avg=None, exp_avg_sq=None):
    "jettify/pytorch-optimizer"
    grad = p.grad.data
    if step == 0:
        exp_avg = torch.full_like(p.data, 1e-6)
        exp_avg_sq = torch.full_like(p.data, 1e-6)
    step = step + 1
    exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
    grad_squared = grad.mul(grad)
    exp_avg_sq.addcmul_(torch.sign(exp_avg_sq - grad_squared), grad_squared, value=-(1 - beta2))
    denom = (exp_avg_sq.sqrt() / math.sqrt(1 - beta2 ** step)).add_(eps)
    p.data.addcdiv_(exp_avg, denom, value=-lr / (1 - beta1 ** step))
    return {'step': step, 'exp_avg': exp_avg, 'exp_avg_sq': exp_avg_sq}

def aggmo(p, lr, betas=(0., 0.9, 0.99), momentum_buffer=None):
    "AtheMathmo/AggMo: a dict of buffers"
    if momentum_buffer is None: momentum_buffer = {beta: torch.zeros_like(p.data) for beta in betas}
    for beta in betas:
        buf = momentum_buffer[beta]
        buf.mul_(beta).add_(p.grad.data)
        p.data.sub_(lr / len(betas), buf)
    return {'momentum_buffer': momentum_buffer}

def half_aware(p, lr):
    grad = p.grad.float() if p.dtype is torch.float16 or p.dtype is torch.bfloat16 else p.grad
    p.data.add_(grad.to(p.dtype), alpha=-lr)

def adafactor_rms(p, lr, eps, wd):
    "fairseq: parameters scaled by their size, updates clipped by theirs"
    def rms(x): return x.norm(2) / (x.numel()**0.5)
    update = p.grad / (p.grad.pow(2) + eps).sqrt()
    update.div_((rms(update) / 1.0).clamp_(min=1.0))
    p.data.add_(-lr * rms(p.data).clamp(min=1e-3), update)


ADAM = dict(lr=0.1, mom=0.9, mom_damp=0.1, sqr_mom=0.99, sqr_damp=0.01, eps=1e-6, wd=0.1)
OLD_ADAM = [old_weight_decay, old_average_grad, old_average_sqr_grad, old_step_count, old_adam_step]
BETAS = dict(lr=0.1, eps=1e-6, wd=0.1)

# By name, the steppers, their hyper-parameters, and why the eager engine runs them; None for kernels
WILD = {
    'fastbook, momentum': ([weight_decay, average_grad, momentum_step], dict(lr=0.1, mom=0.9, wd=0.1), None),
    'fastbook, RMSProp': ([l2_reg, average_sqr_grad, rms_prop_step], dict(lr=0.1, sqr_mom=0.99, eps=1e-6, wd=0.1), None),
    'course of 2019, SGD': ([old_l2_reg, old_sgd_step], dict(lr=0.1, wd=0.1), None),
    'course of 2019, Adam': (OLD_ADAM, ADAM, None),
    'course of 2019, LAMB': ([*OLD_ADAM[1:-1], old_lamb_step], ADAM, r'`old_lamb_step` .*Write `p.data.add_\(-lr \* \(r1 / r2\).clamp\(max=10\), step\)`'),
    'course of 2019, LAMB, mended': ([*OLD_ADAM[1:-1], old_lamb_step_mended], ADAM, None),
    'fastxtend, Lion': (lion_step, dict(lr=0.1, wd=0.1, beta1=0.9, beta2=0.99), None),
    'fastxtend, Adan': (adan_step, dict(lr=0.1, eps=1e-6, wd=0.1, beta1=0.98, beta2=0.92, beta3=0.99), None),
    'LAMB': (lamb, BETAS, r'`trust_ratio = torch.where\(\(weight_norm == 0\) \| \(adam_norm == 0\), 1, weight_norm / adam_norm\)`'),
    'LAMB, mended': (lamb_mended, BETAS, None),
    'LARC': ([LARC(), old_sgd_step], dict(lr=0.1, wd=0.1), r'torch.where\(\(param_norm != 0\) & \(grad_norm != 0\), a, b\)'),
    'LARC, mended': ([LARCMended(), old_sgd_step], dict(lr=0.1, wd=0.1), None),
    'RAdam': (radam, BETAS, None),
    'Ranger without centralization': ([radam, lookahead], BETAS, None),
    'Ranger': ([centralized, radam, lookahead], BETAS, '`centralized` .*reduces some dimensions.*by_torch'),
    'AdaBelief': (adabelief, BETAS, None),
    'AdaBound': (adabound, BETAS, None),
    'AMSGrad of torch 1.0': (old_amsgrad, BETAS, None),
    'SGD of torch 1.0': (old_sgd, dict(lr=0.1, wd=0.1), None),
    'Novograd': (novograd, BETAS, "`novograd`"),
    'diffGrad': (diffgrad, dict(lr=0.1, eps=1e-6), None),
    'AdaMod': (adamod, dict(lr=0.1, eps=1e-6), None),
    'Yogi': (yogi, dict(lr=0.1, eps=1e-6), None),
    'AggMo': (aggmo, dict(lr=0.1), 'as state'),
    'by type': (half_aware, dict(lr=0.1), None),
    'Adafactor without factors': (adafactor_rms, BETAS, None),
}
