"""The pretrained encoder of another architecture, out of the pip package that ships it."""

from advmerge.artifacts import save_tensors
from advmerge.checkpoints import load_checkpoint
from advmerge.errors import StudyError
from advmerge.models import build_encoder
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("output")
    backbone = args.config["backbone"]
    tensors = load_checkpoint(backbone["pretrained"])
    encoder = build_encoder(backbone)
    try:
        encoder.load_state_dict(
            {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
        )
    except RuntimeError as error:
        raise StudyError(f"{backbone['pretrained']}: does not fit {backbone['timm']}: {error}") from error
    save_tensors(args["output"], encoder.state_dict(), {**args.provenance(), "backbone": backbone})


run(main)
