"""``profile``: measure this device; needs no torch."""

from pathlib import Path
from typing import Annotated

import typer

from cost_models import DeviceProfile, Workload, read_document
from cost_models.documents import to_plain
from spartan_planner.cli.options import EXIT_INTERRUPTED, AsJson, print_json, require_output
from spartan_planner.console import show
from spartan_planner.progress import progress_bar

ONNX_SUFFIX = ".onnx"


WorkloadFile = Annotated[
    Path,
    typer.Argument(metavar="WORKLOAD", help="A workload made by 'inspect -o', or an ONNX file."),
]
ProfileOut = Annotated[Path, typer.Option("--out", "-o", help="Write the profile (YAML) here.")]
DeviceName = Annotated[str, typer.Option("--name", help="What to call the device.")]
NumThreads = Annotated[int, typer.Option("--threads", help="Threads of the runtime.")]
NumRounds = Annotated[int, typer.Option("--rounds", help="Interleaved rounds at most.")]
MaxSeconds = Annotated[
    float, typer.Option("--max-seconds", help="Begin no further round after this time.")
]
HalfWidth = Annotated[
    float,
    typer.Option(
        "--half-width",
        help="Stop when the 95 % intervals of the figures that matter are this share of the "
        "figure to each side, or less.",
    ),
]
RuntimeName = Annotated[str, typer.Option("--runtime", help="onnxruntime, openvino or torch.")]
Provider = Annotated[
    str,
    typer.Option(
        "--provider",
        help="What of the runtime computes, such as CUDAExecutionProvider, GPU or cuda; the "
        "CPU by default.",
    ),
]
Pin = Annotated[
    bool, typer.Option("--pin", help="Keep the process on as many cores as it has threads.")
]
LayersOnly = Annotated[bool, typer.Option("--layers-only", help="Do not run the whole model.")]
WithChannels = Annotated[
    bool,
    typer.Option(
        "--channels",
        help="Measure every layer at half and a quarter of its channels too, for plans that remove "
        "channels; a workload made by 'inspect --channels' asks for it itself.",
    ),
]


def profile_command(
    workload: WorkloadFile,
    out: ProfileOut,
    name: DeviceName = "this-device",
    threads: NumThreads = 1,
    rounds: NumRounds = 200,
    max_seconds: MaxSeconds = 240.0,
    half_width: HalfWidth = 0.03,
    runtime: RuntimeName = "onnxruntime",
    provider: Provider = "",
    pin: Pin = False,
    layers_only: LayersOnly = False,
    channels: WithChannels = False,
    as_json: AsJson = False,
) -> None:
    """Measure this device for the layer shapes of WORKLOAD, dense and lowered.

    Rounds are kept in OUT.partial: after an interruption the same command goes on from there.
    """
    from spartan_planner.graph_skeleton import require_own_graph
    from spartan_planner.profiling import ProfileSettings, write_profile

    require_output(out, workload)
    settings = ProfileSettings(
        name=name,
        num_threads=threads,
        num_rounds=rounds,
        max_duration_s=max_seconds,
        min_rounds=min(ProfileSettings.min_rounds, rounds),
        max_half_width=half_width,
        runtime=runtime,
        provider=provider,
        is_pinned=pin,
        whole_model=not layers_only,
        with_channels=channels,
    )
    document = read_workload(workload)
    require_own_graph(document)
    try:
        with progress_bar("profiling", rounds) as advance:
            profile = write_profile(document, out, settings, advance, _tell)
    except KeyboardInterrupt as interruption:
        _tell(_what_is_kept(out))
        raise typer.Exit(EXIT_INTERRUPTED) from interruption
    _tell_how_certain(profile, half_width)
    if as_json:
        print_json(to_plain(profile))
    else:
        _show(profile, out)


def _what_is_kept(out: Path) -> str:
    from spartan_planner.profiling.partial_file import SUFFIX, num_kept_rounds

    partial = out.with_name(out.name + SUFFIX)
    num_rounds = num_kept_rounds(partial)
    if not num_rounds:
        return "interrupted before the first rounds were complete: nothing is kept"
    return (
        f"interrupted: {num_rounds} rounds are kept in {partial}; the same command goes on from "
        "there"
    )


def read_workload(path: Path) -> Workload:
    """Read a workload file, or describe an ONNX file.

    Raises:
        SpartanPlannerError: the file is neither.
    """
    if path.suffix == ONNX_SUFFIX:
        from spartan_planner.onnx_workload import workload_of_onnx

        return workload_of_onnx(path)
    return read_document(path, Workload, "workload")


def _show(profile: DeviceProfile, out: Path) -> None:
    from spartan_planner.report import profile_table

    show(profile_table(profile))
    for model in profile.models:
        show(
            f"{model.model} as a whole: {model.dense_ms:.4g} ms, of which its layers "
            f"{model.layers_ms:.4g} ms"
        )
    show(f"written to {out}")


def _tell_how_certain(profile: DeviceProfile, asked: float) -> None:
    """Say when the time or the rounds were over before the figures were as certain as asked."""
    assert profile.measurement is not None
    reached = profile.measurement.provenance.widest_half_width
    if reached is None:
        _tell(
            "too few rounds were run to say how certain the figures are; allow more with "
            "--max-seconds and --rounds"
        )
    elif reached > asked:
        _tell(
            f"some figures are certain to {reached:.1%} only, {asked:.1%} were asked for; measure "
            "on a quieter machine or allow more with --max-seconds and --rounds"
        )


def _tell(sentence: str) -> None:
    typer.echo(sentence, err=True)
