"""A model that others trained, under timm's names: the pretrained encoder, or an expert in place of fine-tuning."""

from advmerge.artifacts import save_tensors
from advmerge.models import Model, build_encoder
from advmerge.published import load_published
from advmerge.script import arguments, run


def main() -> None:
    args = arguments("pretrained?", "output")
    config = args.config
    base = Model(args["pretrained"]) if args["pretrained"] else None
    backbone = base.backbone if base else config["backbone"]
    where = f"tasks.{config['task']}.finetuned" if base else "backbone.pretrained"
    state = load_published(config["weights"], build_encoder(backbone), where, base.state if base else None)
    save_tensors(args["output"], state, {**args.provenance(), "backbone": backbone, "facts": {}})


run(main)
