"""``plan``: a cost-weighted allocation for budgets, over a range of them, or on several devices."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cost_models import DeviceProfile, write_document
from cost_models.documents import to_plain
from spartan_planner.cli.options import (
    AsJson,
    Inputs,
    InputShape,
    Seed,
    print_json,
    require_output,
)
from spartan_planner.cli.plan_options import (
    Beta,
    BudgetTexts,
    ChannelMultiple,
    Compared,
    KeepDense,
    LayerLayout,
    LayoutTexts,
    MinDensity,
    NumPoints,
    OnMeta,
    Out,
    PlannedModel,
    PolicyName,
    Profile,
    StreamedCheckpoint,
    WithSweep,
    refuse_contradictions,
    request_of,
)
from spartan_planner.cli.plan_output import comparison_json, plan_json, show_plan, write_curve
from spartan_planner.cli.plan_sources import Source, read_source
from spartan_planner.cli.trial_options import (
    TrialWish,
    Try,
    TryProfile,
    TryTolerance,
    exit_by,
    show_trial,
    trial_json,
    trial_wish,
    try_out,
)
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.planning import Plan, PlanRequest


def plan_command(
    model: PlannedModel,
    budget: BudgetTexts,
    out: Out = None,
    profile: Profile = None,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    checkpoint: StreamedCheckpoint = None,
    on_meta: OnMeta = False,
    layout: LayoutTexts = None,
    channel_multiple: ChannelMultiple = None,
    policy: PolicyName = "cost",
    keep_dense: KeepDense = None,
    min_density: MinDensity = None,
    layer_layout: LayerLayout = None,
    with_sweep: WithSweep = False,
    points: NumPoints = 100,
    compare: Compared = None,
    beta: Beta = None,
    seed: Seed = 0,
    is_tried: Try = False,
    try_tolerance: TryTolerance = None,
    try_profile: TryProfile = None,
    as_json: AsJson = False,
) -> None:
    """Plan which blocks of MODEL to keep, and predict the cost, before any training."""
    if out:
        require_output(out, Path(profile) if profile else None, inputs, checkpoint, Path(model))
    refuse_contradictions(out, profile, with_sweep, compare)
    bounds = (keep_dense, min_density, layer_layout)
    request = request_of(budget, layout, bounds, policy, beta, channel_multiple)
    if request.channels and (with_sweep or is_tried):
        raise UsageError(
            "--sweep and --try know no channels yet; leave them out, or the layouts channel, head "
            "and auto"
        )
    trial = trial_wish(is_tried, try_tolerance, try_profile, profile)
    if trial and (with_sweep or on_meta or Path(model).suffix in (".onnx", ".yaml", ".yml")):
        raise UsageError(
            "--try exports the model with its weights: it needs a torch model in memory, and "
            "neither --sweep nor --meta"
        )
    from spartan_planner.bundled_profiles import load_profile

    devices = [load_profile(name) for name in compare or ()]
    request = replace(request, profile=load_profile(profile) if profile else None)
    with_channels = request.channels is not None
    source = read_source(model, input_shape, inputs, checkpoint, on_meta, seed, with_channels)
    if devices:
        _compare(source, request, devices, as_json)
    elif with_sweep:
        _sweep(source, request, points, out, as_json)
    else:
        _plan(source, request, trial, out, as_json)


def _made(source: Source, request: PlanRequest) -> Plan:
    from spartan_planner.planning import make_plan

    return make_plan(
        source.workload,
        source.weights,
        request,
        input_shapes=source.input_shapes,
        input_dtypes=source.input_dtypes,
    )


def _plan(
    source: Source,
    request: PlanRequest,
    trial_wished: TrialWish | None,
    out: Path | None,
    as_json: bool,
) -> None:
    trial = None
    if trial_wished is not None:
        assert source.runnable is not None
        trial = try_out(
            trial_wished,
            *source.runnable,
            lambda device: _made(source, replace(request, profile=device)),
            request.profile,
        )
    made = trial.plan if trial else _made(source, request)
    if out:
        write_document(out, made)
    if as_json:
        print_json({**plan_json(made), **trial_json(trial)})
        exit_by(trial)
        return
    show_plan(made)
    show_trial(trial)
    show(f"written to {out}" if out else "not written; give --out to keep the plan")
    exit_by(trial)


def _sweep(
    source: Source, request: PlanRequest, num_points: int, out: Path | None, as_json: bool
) -> None:
    from spartan_planner.planning import prepare
    from spartan_planner.planning.sweep import sweep
    from spartan_planner.report import sweep_table

    problem = prepare(source.workload, source.weights, request)
    curve = sweep(problem, request.profile, policy=request.policy, num_points=num_points)
    if out:
        write_curve(out, curve)
    if as_json:
        print_json(to_plain(curve))
        return
    show(sweep_table(curve))
    if out:
        show(f"all {len(curve.points)} points written to {out}")


def _compare(
    source: Source, request: PlanRequest, profiles: Sequence[DeviceProfile], as_json: bool
) -> None:
    from spartan_planner.planning.compare import compare
    from spartan_planner.report import comparison_table

    found = compare(
        source.workload,
        profiles,
        lambda profile: _made(source, replace(request, profile=profile)),
    )
    if as_json:
        print_json(comparison_json(found))
    else:
        show(comparison_table(found))
