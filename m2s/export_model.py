"""`m2s export-model`: an encoder to ONNX or torch.export."""

import argparse
from pathlib import Path

HELP = "an encoder to ONNX or torch.export"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="scene encoder or CLIP checkpoint: a folder, a Hub id, ID@REVISION"
    )
    parser.add_argument(
        "output", type=Path, metavar="OUTPUT", help="folder for the exported files; an earlier export in it is replaced"
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        default=["onnx"],
        choices=["onnx", "int8", "pt2"],
        help="onnx: model.onnx; int8: model_int8.onnx, faster and less exact; pt2: model.pt2 of torch.export "
        "(default: onnx)",
    )
    parser.add_argument(
        "--frames-per-scene", type=int, help="fix the number of frames in a scene; the file then reads no other"
    )
    parser.add_argument(
        "--scenes-per-batch", type=int, help="fix the number of scenes in a batch; the file then reads no other"
    )


def run(options: argparse.Namespace) -> int:
    from modeling_m2s.export_m2s import ExportSettings, export_model

    settings = ExportSettings(options.formats, options.frames_per_scene, options.scenes_per_batch)
    for name, facts in export_model(options.model, options.output, settings)["files"].items():
        print(
            f"{options.output / name}: {facts['bytes']:,} bytes; largest difference from PyTorch "
            f"{facts['largest_difference']:.1e}, smallest cosine {facts['smallest_cosine']:.4f}"
        )
    return 0
