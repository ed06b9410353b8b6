"""Do words find the right photographs? Measured with a CLIP model's own text vectors on photographs of known names.

    python -m eval.word_search --models CLIP_FOLDER m2s-clip-tiny --words $M2S_ASSETS/text \\
        --photographs $M2S_ASSETS/images --results eval/results/word_search.json

A photograph is right for a word if its name is the word or ends with it: a suspension bridge is a bridge. Names are the
classes of `imagenet_1000` and the groups of `photographs/miniplaces` (test part, two photographs a group). Photographs
that are right for no word are left out. For every word, the photographs are ranked by cosine, first without and then
with means subtracted: that of everyday words, as `m2s search --text` does, that of the photographs, or both. No word
that is searched is an everyday word.

The text vectors are those of CLIP ViT-B/16, so only its image tower, and one distilled from it, can be asked. The first
takes some minutes on two cores. The second was distilled on the photographs of `imagenet_1000`, among others.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class WordSearchArguments:
    models: list[str] = field(metadata={"help": "image towers: folders or Hub ids of CLIP, or m2s-clip-tiny"})
    words: Path = field(metadata={"help": "folder with words.json and vectors.npy, the text vectors of the words"})
    photographs: Path = field(metadata={"help": "folder with imagenet_1000/ and photographs/miniplaces/"})
    results: Path | None = field(default=None, metadata={"help": "JSON file for the figures"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.word_search", WordSearchArguments, run, argv)


def run(arguments: WordSearchArguments) -> None:
    from eval.images.word_retrieval import measure
    from modeling_m2s.storage_m2s import write_json

    results = measure(arguments)
    for name, ways in results["models"].items():
        for way, figures in ways.items():
            print(f"{name:24s} {way:28s}" + "".join(f"   {key} {value:.3f}" for key, value in figures.items()))
    if arguments.results:
        write_json(arguments.results, results)


if __name__ == "__main__":
    main()
