"""`m2s push`: a model or a dataset to a repository of the Hub."""

import argparse
from pathlib import Path

HELP = "a model or a dataset to a repository of the Hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder of a model, a training's output, a dataset or an index"
    )
    parser.add_argument("repo_id", metavar="REPO_ID", help="repository USER/NAME; it is made if there is none")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch to push to, made when there is none (default: main)"
    )
    parser.add_argument(
        "--with-keyframes",
        action="store_true",
        help="push keyframes too; they are pictures of films, so whoever publishes them needs the right to",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the files and their sizes in bytes")


def run(options: argparse.Namespace) -> int:
    from modeling_m2s.push_m2s import collect, push

    upload = collect(options.folder, options.repo_id, options.with_keyframes)
    print(upload.listing())
    if options.dry_run:
        print("nothing was uploaded (--dry-run)")
    else:
        print(push(upload, options.repo_id, options.private, options.revision))
    return 0
