# Generated from the code by `python -m tests.checklist --write`
from optimcb import algorithms as algorithms
from optimcb import bench as bench
from optimcb import catalog as catalog
from optimcb import composition as composition
from optimcb import fastai as fastai
from optimcb import learner as learner
from optimcb import parts as parts
from optimcb import plots as plots
from optimcb import problems as problems
from optimcb import routing as routing
from optimcb import steppers as steppers
from optimcb import taps as taps
from optimcb._compat.warn import CompositionWarning as CompositionWarning
from optimcb.algorithm import Algorithm as Algorithm
from optimcb.algorithm import algorithm as algorithm
from optimcb.algorithms import ADOPT as ADOPT
from optimcb.algorithms import AMSGrad as AMSGrad
from optimcb.algorithms import ASGD as ASGD
from optimcb.algorithms import AdEMAMix as AdEMAMix
from optimcb.algorithms import AdaBelief as AdaBelief
from optimcb.algorithms import AdaBound as AdaBound
from optimcb.algorithms import AdaMod as AdaMod
from optimcb.algorithms import Adadelta as Adadelta
from optimcb.algorithms import Adafactor as Adafactor
from optimcb.algorithms import Adagrad as Adagrad
from optimcb.algorithms import Adam as Adam
from optimcb.algorithms import AdamW as AdamW
from optimcb.algorithms import Adamax as Adamax
from optimcb.algorithms import Adan as Adan
from optimcb.algorithms import AggMo as AggMo
from optimcb.algorithms import DAdaptAdam as DAdaptAdam
from optimcb.algorithms import DAdaptSGD as DAdaptSGD
from optimcb.algorithms import DiffGrad as DiffGrad
from optimcb.algorithms import Fromage as Fromage
from optimcb.algorithms import LaProp as LaProp
from optimcb.algorithms import Lamb as Lamb
from optimcb.algorithms import Larc as Larc
from optimcb.algorithms import Lion as Lion
from optimcb.algorithms import MADGRAD as MADGRAD
from optimcb.algorithms import MARS as MARS
from optimcb.algorithms import Muon as Muon
from optimcb.algorithms import NAdam as NAdam
from optimcb.algorithms import NovoGrad as NovoGrad
from optimcb.algorithms import PAdam as PAdam
from optimcb.algorithms import Prodigy as Prodigy
from optimcb.algorithms import QHAdam as QHAdam
from optimcb.algorithms import QHM as QHM
from optimcb.algorithms import RAdam as RAdam
from optimcb.algorithms import RMSProp as RMSProp
from optimcb.algorithms import Rprop as Rprop
from optimcb.algorithms import SGD as SGD
from optimcb.algorithms import SM3 as SM3
from optimcb.algorithms import SOAP as SOAP
from optimcb.algorithms import ScheduleFreeAdamW as ScheduleFreeAdamW
from optimcb.algorithms import ScheduleFreeSGD as ScheduleFreeSGD
from optimcb.algorithms import Shampoo as Shampoo
from optimcb.algorithms import SignSGD as SignSGD
from optimcb.algorithms import Signum as Signum
from optimcb.algorithms import Sophia as Sophia
from optimcb.algorithms import StableAdamW as StableAdamW
from optimcb.algorithms import Tiger as Tiger
from optimcb.algorithms import Yogi as Yogi
from optimcb.algorithms.averages import schedule_free as schedule_free
from optimcb.algorithms.classic import ranger as ranger
from optimcb.compare.comparison import Comparison as Comparison
from optimcb.compare.training import compare as compare
from optimcb.composition.calls import by_torch as by_torch
from optimcb.composition.errors import MissingName as MissingName
from optimcb.composition.pipeline import Composition as Composition
from optimcb.composition.results import once as once
from optimcb.composition.results import stop as stop
from optimcb.composition.roles import of_directions as of_directions
from optimcb.composition.roles import of_signs as of_signs
from optimcb.composition.roles import part as part
from optimcb.composition.rules import Rule as Rule
from optimcb.composition.rules import by_module as by_module
from optimcb.composition.rules import by_name as by_name
from optimcb.composition.rules import by_ndim as by_ndim
from optimcb.composition.rules import by_shape as by_shape
from optimcb.composition.rules import norms_and_biases as norms_and_biases
from optimcb.composition.stepper import only as only
from optimcb.composition.stepper import renamed as renamed
from optimcb.composition.stepper import renamed_all as renamed_all
from optimcb.editing.wrap import wrapped as wrapped
from optimcb.environment import doctor as doctor
from optimcb.factory import create_optimizer as create_optimizer
from optimcb.factory import list_optimizers as list_optimizers
from optimcb.optimizer import Optimizer as Optimizer
from optimcb.plots import animate_paths as animate_paths
from optimcb.plots import plot_curves as plot_curves
from optimcb.plots import plot_layers as plot_layers
from optimcb.plots import plot_paths as plot_paths
from optimcb.plots import plot_sched as plot_sched
from optimcb.routing.groups import grouped as grouped
from optimcb.routing.groups import no_wd as no_wd
from optimcb.routing.route import route as route
from optimcb.routing.schedules import cosine_decay as cosine_decay
from optimcb.routing.schedules import inverse_sqrt as inverse_sqrt
from optimcb.routing.schedules import scheduled as scheduled
from optimcb.routing.schedules import warmup as warmup
from optimcb.state.files import load_state as load_state
from optimcb.state.files import save_state as save_state
from optimcb.state.param_names import named_state as named_state
from optimcb.state.to_torch import to_torch as to_torch
from optimcb.steppers.adam import adam_step as adam_step
from optimcb.steppers.adam import average_center as average_center
from optimcb.steppers.adam import average_sqr_grad as average_sqr_grad
from optimcb.steppers.adam import center_sqr_avg as center_sqr_avg
from optimcb.steppers.adam import debias_eps as debias_eps
from optimcb.steppers.adam import debias_grad_avg as debias_grad_avg
from optimcb.steppers.adam import debias_sqr_avg as debias_sqr_avg
from optimcb.steppers.adam import eps_in_root as eps_in_root
from optimcb.steppers.adam import nadam_avg as nadam_avg
from optimcb.steppers.adam import nadam_mom as nadam_mom
from optimcb.steppers.adam import nadam_schedule as nadam_schedule
from optimcb.steppers.adam import qhadam_avgs as qhadam_avgs
from optimcb.steppers.adam import qhadam_step as qhadam_step
from optimcb.steppers.adam import radam_step as radam_step
from optimcb.steppers.adam import radam_update as radam_update
from optimcb.steppers.adam import rectification as rectification
from optimcb.steppers.adam import rms_prop_step as rms_prop_step
from optimcb.steppers.adam import rms_update as rms_update
from optimcb.steppers.adam import step_stat as step_stat
from optimcb.steppers.adaptive import average_diff as average_diff
from optimcb.steppers.adaptive import average_sqr_deviation as average_sqr_deviation
from optimcb.steppers.adaptive import average_sqr_norm as average_sqr_norm
from optimcb.steppers.adaptive import clip_by_step as clip_by_step
from optimcb.steppers.adaptive import clip_lr_by_rms as clip_lr_by_rms
from optimcb.steppers.adaptive import debias_update as debias_update
from optimcb.steppers.adaptive import diff_of_grads as diff_of_grads
from optimcb.steppers.adaptive import friction_update as friction_update
from optimcb.steppers.adaptive import keep_grad as keep_grad
from optimcb.steppers.adaptive import look_ahead_grad as look_ahead_grad
from optimcb.steppers.adaptive import mars_grad as mars_grad
from optimcb.steppers.adaptive import mix_grad_avgs as mix_grad_avgs
from optimcb.steppers.adaptive import past_rms_update as past_rms_update
from optimcb.steppers.adaptive import power_update as power_update
from optimcb.steppers.adaptive import proximal_decay as proximal_decay
from optimcb.steppers.adaptive import rectify_update as rectify_update
from optimcb.steppers.adaptive import rest_at_first as rest_at_first
from optimcb.steppers.adaptive import slow_schedule as slow_schedule
from optimcb.steppers.adaptive import start_sqr_avg as start_sqr_avg
from optimcb.steppers.averages import ema_weights as ema_weights
from optimcb.steppers.averages import schedule_free_start as schedule_free_start
from optimcb.steppers.averages import schedule_free_step as schedule_free_step
from optimcb.steppers.averages import schedule_free_warmup as schedule_free_warmup
from optimcb.steppers.averages import schedule_free_weight as schedule_free_weight
from optimcb.steppers.averages import swa_weights as swa_weights
from optimcb.steppers.factored import cover_sqr_grad as cover_sqr_grad
from optimcb.steppers.factored import factored_sqr_grad as factored_sqr_grad
from optimcb.steppers.factored import factored_update as factored_update
from optimcb.steppers.factored import keep_cover as keep_cover
from optimcb.steppers.factored import lr_in_update as lr_in_update
from optimcb.steppers.factored import param_rms as param_rms
from optimcb.steppers.factored import relative_lr as relative_lr
from optimcb.steppers.factored import scale_lr as scale_lr
from optimcb.steppers.layerwise import lamb_step as lamb_step
from optimcb.steppers.layerwise import larc_layer_lr as larc_layer_lr
from optimcb.steppers.layerwise import larc_step as larc_step
from optimcb.steppers.layerwise import larc_update as larc_update
from optimcb.steppers.layerwise import trust_ratio as trust_ratio
from optimcb.steppers.lookahead import lookahead_step as lookahead_step
from optimcb.steppers.lookahead import slow_start as slow_start
from optimcb.steppers.momentum import asgd_lr as asgd_lr
from optimcb.steppers.momentum import average_weights as average_weights
from optimcb.steppers.momentum import bound_norm as bound_norm
from optimcb.steppers.momentum import dual_sums as dual_sums
from optimcb.steppers.momentum import dual_update as dual_update
from optimcb.steppers.momentum import eps_in_lr as eps_in_lr
from optimcb.steppers.momentum import keep_bound as keep_bound
from optimcb.steppers.momentum import keep_start as keep_start
from optimcb.steppers.momentum import mean_of_avgs as mean_of_avgs
from optimcb.steppers.momentum import mixed_update as mixed_update
from optimcb.steppers.momentum import newton_update as newton_update
from optimcb.steppers.momentum import norm_ratio as norm_ratio
from optimcb.steppers.momentum import over_cube_root as over_cube_root
from optimcb.steppers.momentum import rms_lr as rms_lr
from optimcb.steppers.momentum import rprop_update as rprop_update
from optimcb.steppers.momentum import shrink_by_lr as shrink_by_lr
from optimcb.steppers.momentum import sign_update as sign_update
from optimcb.steppers.momentum import whole_step as whole_step
from optimcb.steppers.moving_average import debias as debias
from optimcb.steppers.muon import match_rms_lr as match_rms_lr
from optimcb.steppers.muon import orthogonal_update as orthogonal_update
from optimcb.steppers.muon import scale_vector_lr as scale_vector_lr
from optimcb.steppers.muon import spectral_lr as spectral_lr
from optimcb.steppers.muon import vector_update as vector_update
from optimcb.steppers.parameter_free import dadapt_adam_d as dadapt_adam_d
from optimcb.steppers.parameter_free import dadapt_sgd_d as dadapt_sgd_d
from optimcb.steppers.parameter_free import debias_lr as debias_lr
from optimcb.steppers.parameter_free import eps_by_d as eps_by_d
from optimcb.steppers.parameter_free import keep_first_norm as keep_first_norm
from optimcb.steppers.parameter_free import lr_by_d as lr_by_d
from optimcb.steppers.parameter_free import lr_in_grad as lr_in_grad
from optimcb.steppers.parameter_free import prodigy_d as prodigy_d
from optimcb.steppers.parameter_free import sync_d as sync_d
from optimcb.steppers.parts import accumulate as accumulate
from optimcb.steppers.parts import add_noise as add_noise
from optimcb.steppers.parts import agc as agc
from optimcb.steppers.parts import cautious as cautious
from optimcb.steppers.parts import centralize as centralize
from optimcb.steppers.parts import clip_norm as clip_norm
from optimcb.steppers.parts import clip_tensor_norm as clip_tensor_norm
from optimcb.steppers.parts import clip_update as clip_update
from optimcb.steppers.parts import clip_update_norm as clip_update_norm
from optimcb.steppers.parts import clip_update_rms as clip_update_rms
from optimcb.steppers.parts import clip_value as clip_value
from optimcb.steppers.parts import decay_toward as decay_toward
from optimcb.steppers.parts import decay_update as decay_update
from optimcb.steppers.parts import full_decay as full_decay
from optimcb.steppers.parts import grokfast as grokfast
from optimcb.steppers.parts import maximize as maximize
from optimcb.steppers.parts import skip_nonfinite as skip_nonfinite
from optimcb.steppers.parts import zero_nonfinite as zero_nonfinite
from optimcb.steppers.rates import average_rate as average_rate
from optimcb.steppers.rates import bound_by_average as bound_by_average
from optimcb.steppers.rates import bound_rate as bound_rate
from optimcb.steppers.rates import rate_update as rate_update
from optimcb.steppers.rates import rms_rate as rms_rate
from optimcb.steppers.schedules import count_steps as count_steps
from optimcb.steppers.schedules import route_lr as route_lr
from optimcb.steppers.schedules import schedule as schedule
from optimcb.steppers.second_moments import adadelta_update as adadelta_update
from optimcb.steppers.second_moments import adamax_update as adamax_update
from optimcb.steppers.second_moments import decay_lr as decay_lr
from optimcb.steppers.second_moments import max_abs_grad as max_abs_grad
from optimcb.steppers.second_moments import max_sqr_avg as max_sqr_avg
from optimcb.steppers.second_moments import start_avgs as start_avgs
from optimcb.steppers.second_moments import sum_sqr_grad as sum_sqr_grad
from optimcb.steppers.second_moments import use_sqr_max as use_sqr_max
from optimcb.steppers.second_moments import yogi_sqr_grad as yogi_sqr_grad
from optimcb.steppers.sgd import apply_update as apply_update
from optimcb.steppers.sgd import average_grad as average_grad
from optimcb.steppers.sgd import average_update as average_update
from optimcb.steppers.sgd import avg_update as avg_update
from optimcb.steppers.sgd import grad_update as grad_update
from optimcb.steppers.sgd import l2_reg as l2_reg
from optimcb.steppers.sgd import lazy_average_grad as lazy_average_grad
from optimcb.steppers.sgd import lazy_average_update as lazy_average_update
from optimcb.steppers.sgd import momentum_step as momentum_step
from optimcb.steppers.sgd import nesterov_update as nesterov_update
from optimcb.steppers.sgd import sgd_step as sgd_step
from optimcb.steppers.sgd import weight_decay as weight_decay
from optimcb.steppers.shampoo import inverse_roots as inverse_roots
from optimcb.steppers.shampoo import shampoo_update as shampoo_update
from optimcb.steppers.shampoo import sum_grams as sum_grams
from optimcb.steppers.sharpness import ascend as ascend
from optimcb.steppers.soap import average_grams as average_grams
from optimcb.steppers.soap import project_back as project_back
from optimcb.steppers.soap import project_grad as project_grad
from optimcb.steppers.soap import refresh_bases as refresh_bases
from optimcb.steppers.storage import decode_state as decode_state
from optimcb.steppers.storage import encode_state as encode_state
from optimcb.taps import OptStats as OptStats
from optimcb.taps import Record as Record
from optimcb.taps import tap as tap
from optimcb.training.hessian import hutchinson as hutchinson
from optimcb.training.hessian import update_hessian as update_hessian
from optimcb.training.in_backward import InBackward as InBackward
from optimcb.training.in_backward import step_in_backward as step_in_backward
from optimcb.training.lookahead import Lookahead as Lookahead
from optimcb.training.lookahead import look_ahead as look_ahead
from optimcb.training.sam import SAM as SAM
from optimcb.training.sam import stats_kept as stats_kept
from optimcb.training.storage import stored as stored

__version__: str
__all__ = [
    'SGD',
    'RMSProp',
    'Adam',
    'AdamW',
    'AMSGrad',
    'Yogi',
    'NAdam',
    'Adamax',
    'Adagrad',
    'Adadelta',
    'RAdam',
    'QHAdam',
    'Larc',
    'Lamb',
    'ranger',
    'AdaBelief',
    'Adan',
    'ADOPT',
    'LaProp',
    'AdEMAMix',
    'NovoGrad',
    'AdaBound',
    'AdaMod',
    'DiffGrad',
    'PAdam',
    'StableAdamW',
    'MARS',
    'SignSGD',
    'Signum',
    'Lion',
    'Tiger',
    'Rprop',
    'ASGD',
    'QHM',
    'AggMo',
    'MADGRAD',
    'Fromage',
    'Sophia',
    'Prodigy',
    'DAdaptAdam',
    'DAdaptSGD',
    'Muon',
    'Shampoo',
    'SOAP',
    'Adafactor',
    'SM3',
    'ScheduleFreeSGD',
    'ScheduleFreeAdamW',
    'schedule_free',
    'accumulate',
    'skip_nonfinite',
    'rms_lr',
    'maximize',
    'look_ahead',
    'scheduled',
    'stored',
    'add_noise',
    'agc',
    'centralize',
    'clip_norm',
    'clip_tensor_norm',
    'clip_value',
    'grokfast',
    'zero_nonfinite',
    'l2_reg',
    'decay_toward',
    'weight_decay',
    'full_decay',
    'cautious',
    'clip_update',
    'clip_update_norm',
    'clip_update_rms',
    'decay_update',
    'trust_ratio',
    'ema_weights',
    'swa_weights',
    'Optimizer',
    'Lookahead',
    'SAM',
    'algorithm',
    'create_optimizer',
    'list_optimizers',
    'sgd_step',
    'momentum_step',
    'adam_step',
    'average_grad',
    'average_sqr_grad',
    'step_stat',
    'debias_grad_avg',
    'debias_sqr_avg',
    'rms_update',
    'apply_update',
    'max_sqr_avg',
    'use_sqr_max',
    'yogi_sqr_grad',
    'once',
    'renamed',
    'by_torch',
    'part',
    'wrapped',
    'Composition',
    'CompositionWarning',
    'MissingName',
    'route',
    'by_name',
    'by_ndim',
    'by_shape',
    'by_module',
    'norms_and_biases',
    'no_wd',
    'grouped',
    'warmup',
    'cosine_decay',
    'inverse_sqrt',
    'OptStats',
    'Record',
    'tap',
    'compare',
    'plot_paths',
    'animate_paths',
    'plot_sched',
    'plot_curves',
    'save_state',
    'load_state',
    'named_state',
    'to_torch',
    'step_in_backward',
    'update_hessian',
    'hutchinson',
    'stats_kept']
