# Reads and checks the study, and gives the rules their paths, code inputs and the way a job is run.

import atexit
import os
import sys
from functools import cache
from pathlib import Path

SCRIPTS = "workflow/scripts"
sys.path.insert(0, str(Path(workflow.basedir, "src")))

from advmerge import associations, attacks, claims, comparison, data, merging, page, statistics, summary
from advmerge.artifacts import canonical
from advmerge.errors import StudyError
from advmerge.figures import FORMATS
from advmerge.jobs.session import (
    prepare,
    require_device,
    requests,
    set_up_jobs,
    spare_the_scheduler,
    start_warm_processes,
    stop_warm_processes,
)
from advmerge.sources import closure
from advmerge.study import load


def source_files(kind, options):
    """What a source reads beside its code; ours relative to here, so that records hold wherever the clone lies."""
    found = [Path(path) for path in data.files(kind, options)]
    return [str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path) for path in found]


@cache  # a folder of a million images is walked once
def files_of(task):
    return source_files(study.kind(task), study.sets[task])


try:
    if workflow.config_settings.config or len(workflow.configfiles) > 1:
        raise StudyError(
            "--config and a second --configfile change nothing here: a study is one file; edit it, or a copy of it"
        )
    study_file = str([*workflow.configfiles, "params.yaml"][0])
    study = load(study_file)
    if workflow.is_main_process:
        claims.check(claims.load("claims.yaml"), claims.Names(**study.claims_slice()["names"]))
        prepare(study, study_file, touch="--touch" in sys.argv)
        for name in study.sets:
            files_of(name)  # an input function's error would be a traceback
    # Memory and time matter to whoever shares out a cluster, whose profile has defaults of them.
    on_cluster = bool(workflow.resource_settings.default_resources)
    requested = requests(study, study_file, main=workflow.is_main_process) if on_cluster else {}
except StudyError as error:
    sys.exit(f"error: {error}")

RESULTS, REPORTS, LOGS = study.results, study.reports, f"logs/{study.study}"
DATA = f"{RESULTS}/data/{{task}}.safetensors"
CORPUS = f"{RESULTS}/data/corpus.safetensors"
CORPUS_IF_ANY = [CORPUS] if study.pretrain else []  # a published encoder comes without
HEAD = f"{RESULTS}/heads/{{head}}.safetensors"
ENCODER = f"{RESULTS}/models/{{encoder}}.safetensors"
FEATURES = f"{RESULTS}/models/{{encoder}}.features.safetensors"
PRETRAINED = ENCODER.format(encoder="pretrained")
EXPERT = f"{RESULTS}/models/finetuned/{{expert}}.safetensors"
MULTITASK = f"{RESULTS}/models/{{multitask}}.safetensors"
MERGED = f"{RESULTS}/merged/{{merged}}.safetensors"
ADVERSARIAL = f"{RESULTS}/adversarial/{{task}}/{{surrogate}}/{{attack}}.safetensors"
CLEAN = f"{RESULTS}/clean/{{model}}.parquet"
OUTCOMES = f"{RESULTS}/outcomes/{{target}}/{{attack}}.parquet"
PAIRS = f"{RESULTS}/explanations/pairs/{{target}}.parquet"
DOSE = f"{RESULTS}/explanations/dose/{{merged}}.parquet"
WEIGHT_PATH = f"{RESULTS}/explanations/path.parquet"
WEIGHT_PLANE = f"{RESULTS}/explanations/plane.parquet"

# Models of the study's other seeds are called seed1/ties, seed1/finetuned, …: see Study.replicate.
PLAIN = study.every(study.plain)
WITH_SURGERY = study.every(study.with_surgery)
TARGETS = study.every(study.targets)
UNPACKED = [name for name, other in study.others.items() if other.pretrained != "recipe"]
PUBLISHED = study.published()
TRAINED = [name for name in study.encoders if name not in (*UNPACKED, *PUBLISHED)]


wildcard_constraints:
    task="|".join(study.sets),
    head="|".join(study.heads),
    expert="|".join(study.experts),
    multitask="|".join(study.every(["multitask"])),
    surrogate="|".join(study.every([*study.surrogates, *study.targets])),
    attack="|".join(study.cells()),
    model="|".join(study.models),
    target="|".join(TARGETS),
    figure="|".join(study.drawn),


# How a job is run: see src/advmerge/jobs/launch.py.
set_up_jobs(study.hardware.device)
# In an allocation of a cluster there is no onstart. Its first Snakemake runs one more for each job, which finds this.
if workflow.remote_exec and "ADVMERGE_WARM" not in os.environ:
    start_warm_processes()
    atexit.register(stop_warm_processes)
GPU = 0 if study.hardware.device == "cpu" else 1
ENVIRONMENT = "../../envs/environment.yaml"


def require_device_of(jobs):
    """End the run before its first job if any wants a device that is not here; figures alone want none."""
    try:
        if any(job.resources.get("gpu") for job in jobs):
            require_device(study.hardware.device)
    except StudyError as error:
        sys.exit(f"error: {error}")


def each_task(pattern, names=study.tasks):
    """The path of every task, whatever the pattern calls it."""
    return [pattern.format(task=name, head=name, expert=name) for name in names]


def experts(name, tasks):
    """The experts of a merged model's seed."""
    return each_task(EXPERT, [study.in_seed(task, study.replicate(name).seed) for task in tasks])


def named(option, paths, names=study.tasks):
    """The argument of a script that takes a path for each name: --option name=path …"""
    return f"--{option} " + " ".join(f"{name}={path}" for name, path in zip(names, paths, strict=True))


def code(script, *modules):
    """A rule's script, and the files of the library that it uses: inputs like any other."""
    return closure(f"{SCRIPTS}/{script}.py", *modules)


def asks(rule):
    """What a job of a rule asks a cluster for, and more at each attempt; on one machine, nothing."""

    def growing(amount):
        def grown(wildcards, attempt):
            return amount * attempt

        return grown

    return {name: growing(amount) for name, amount in requested.get(rule, {}).items()}


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────


def data_code(wildcards):
    return code("data", f"advmerge.data.{data.SOURCES[study.kind(wildcards.task)]}")


def data_files(wildcards):
    return files_of(wildcards.task)


def data_config(wildcards):
    return canonical(study.data_slice(wildcards.task))


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────


def pretrain_config(wildcards):
    return canonical(study.pretrain_slice(wildcards.encoder))


def unpack_config(wildcards):
    return canonical(study.unpack_slice(wildcards.encoder))


def head_encoder(wildcards):
    return ENCODER.format(encoder=study.origin(wildcards.head).encoder)


def head_features(wildcards):
    encoder = study.origin(wildcards.head).encoder
    return [FEATURES.format(encoder=encoder)] if encoder in study.measured_encoders else []


def head_data(wildcards):
    return DATA.format(task=study.origin(wildcards.head).task)


def local_weights(source):
    """The file of published weights that lies here; one on the hub is pinned by its checksum."""
    return [source["file"]] if "hub" not in source else []


def published_files(wildcards):
    return local_weights(PUBLISHED[wildcards.published]["weights"])


def published_base(wildcards):
    return [] if wildcards.published == "pretrained" else [PRETRAINED]


def published_config(wildcards):
    return canonical(PUBLISHED[wildcards.published])


def features_config(wildcards):
    return canonical(study.hardware_slice())


def head_files(wildcards):
    """The texts that a zero-shot head is made from, and its weights if they lie here."""
    config = study.head_slice(wildcards.head)
    if study.head.kind != "zero-shot":
        return []
    prompts = Path(f"src/advmerge/data/prompts/{config['kind']}.json")
    return [*([str(prompts)] if prompts.exists() else []), *local_weights(config["head"]["weights"])]


def head_config(wildcards):
    return canonical(study.head_slice(wildcards.head))


def expert_encoder(wildcards):
    return ENCODER.format(encoder=study.origin(wildcards.expert).encoder)


def expert_data(wildcards):
    return DATA.format(task=study.origin(wildcards.expert).task)


def expert_head(wildcards):
    return HEAD.format(head=study.replicate(wildcards.expert).name)


def expert_task(wildcards):
    return study.origin(wildcards.expert).task


def finetune_config(wildcards):
    return canonical(study.finetune_slice(wildcards.expert))


def multitask_config(wildcards):
    return canonical(study.multitask_slice(wildcards.multitask))


# ── merge ───────────────────────────────────────────────────────────────────────────────────────────────


def merge_code(wildcards):
    return code("merge", merging.module_of(study.merging[study.replicate(wildcards.merged).name]["method"]))


def ingredients_of(wildcards):
    """Whose experts are merged: the tasks', and the baits' that are in this merge."""
    return study.ingredients(wildcards.merged)


def merge_experts(wildcards):
    return experts(wildcards.merged, ingredients_of(wildcards))


def merge_heads(wildcards):
    return each_task(HEAD, ingredients_of(wildcards))


def merge_data(wildcards):
    return each_task(DATA, ingredients_of(wildcards))


def merge_argument(wildcards):
    options = {"finetuned": merge_experts, "head": merge_heads, "data": merge_data}
    names = ingredients_of(wildcards)
    return " ".join(named(option, paths(wildcards), names) for option, paths in options.items())


def merge_config(wildcards):
    return canonical(study.merge_slice(wildcards.merged))


def surgery_base(wildcards):
    seed, name = study.replicate(wildcards.merged)
    return MERGED.format(merged=study.in_seed(study.merging[name]["base"], seed))


def surgery_experts(wildcards):
    return experts(wildcards.merged, study.tasks)


def surgery_experts_argument(wildcards):
    return named("finetuned", surgery_experts(wildcards))


def surgery_config(wildcards):
    return canonical(study.surgery_slice(wildcards.merged))


# ── attack ──────────────────────────────────────────────────────────────────────────────────────────────


def attack_code(wildcards):
    ours = attacks.module_of(study.cells()[wildcards.attack].method)
    return code("attack", *([ours] if ours else []))


def attack_models(wildcards):
    return [study.model(member, wildcards.task) for member in study.members(wildcards.surrogate)]


def attack_heads(wildcards):
    return [study.head_of(member, wildcards.task) for member in study.members(wildcards.surrogate)]


def attack_argument(wildcards):
    members = study.members(wildcards.surrogate)
    return f"{named('model', attack_models(wildcards), members)} {named('head', attack_heads(wildcards), members)}"


def attack_config(wildcards):
    return canonical(study.attack_slice(wildcards.task, wildcards.surrogate, wildcards.attack))


# ── evaluate ────────────────────────────────────────────────────────────────────────────────────────────


def answerers(wildcards):
    """(task, member) of what answers for each task: the fine-tuned is each task's own, an ensemble has several."""
    return [(task, member) for task in study.tasks for member in study.members(wildcards.model)]


def models_of(wildcards):
    return [study.model(member, task) for task, member in answerers(wildcards)]


def heads_of(wildcards):
    return [study.head_of(member, task) for task, member in answerers(wildcards)]


def models_argument(wildcards):
    names = [f"{task}/{member}" for task, member in answerers(wildcards)]
    return f"{named('model', models_of(wildcards), names)} {named('head', heads_of(wildcards), names)}"


def predict_config(wildcards):
    return canonical(study.predict_slice(wildcards.model))


def target_model(wildcards):
    return study.model(wildcards.target, "")


def clean_of_target(wildcards):
    return CLEAN.format(model=wildcards.target)


def adversarial_sets(wildcards):
    """task/surrogate → the examples of this attack that the target faces, its own white-box ones among them."""
    return {
        f"{task}/{study.replicate(surrogate).name}": ADVERSARIAL.format(
            task=task, surrogate=surrogate, attack=wildcards.attack
        )
        for task in study.tasks
        for surrogate in study.surrogates_of(wildcards.target, wildcards.attack)
    }


def adversarial_paths(wildcards):
    return list(adversarial_sets(wildcards).values())


def adversarial_argument(wildcards):
    sets = adversarial_sets(wildcards)
    return named("adversarial", sets.values(), sets)


def evaluate_config(wildcards):
    return canonical(study.evaluate_slice(wildcards.target, wildcards.attack))


CELLS = {f"{t}/{c}": OUTCOMES.format(target=t, attack=c) for t in TARGETS for c in study.cells()}
ALL_CLEAN = {"{1}/{0}".format(*study.replicate(model)): CLEAN.format(model=model) for model in study.models}


# ── report ──────────────────────────────────────────────────────────────────────────────────────────────


REPORT_CONFIG = canonical(study.report_slice())
CLAIMS_CONFIG = canonical(study.claims_slice())
GALLERY_SETS = {
    task: ADVERSARIAL.format(task=task, surrogate=study.gallery.surrogate, attack=study.gallery.attack)
    for task in study.tasks
}

PAGE_CONFIG = canonical(study.page_slice())
PAGE_TABLES = {name: f"{REPORTS}/tables/{name}" for name in page.TABLES}
PAGE_MODELS = study.page_models()


def table_files(module):
    """The tables that a module of the library says it makes."""
    return [f"{REPORTS}/tables/{name}" for name in module.TABLES]


SUMMARISED = {name: f"{REPORTS}/tables/{name}" for name in summary.SOURCES}


def figure_files(name, caption):
    """A figure in every format; the SVG goes into Snakemake's report with its caption."""
    for form in FORMATS:
        path = f"{REPORTS}/figures/{name}.{form}"
        yield report(path, caption=f"../report/{caption}.rst", category="Figures") if form == "svg" else path


def figure_config(wildcards):
    shown = list(study.drawn[wildcards.figure])
    return canonical({**study.report_slice(), "figure": wildcards.figure, "shown": shown})


def folder_of(wildcards, output):
    return str(Path(output[0]).parent)


# ── explain ─────────────────────────────────────────────────────────────────────────────────────────────


def explained_answerers(wildcards):
    """(task, name, member) of the target, the task's expert and every surrogate; an ensemble has several members."""
    names = study.explained_names(wildcards.target)
    return [(task, name, member) for task in study.tasks for name in names for member in study.members(name)]


def explained_models(wildcards):
    return [study.model(member, task) for task, _, member in explained_answerers(wildcards)]


def explained_heads(wildcards):
    return [study.head_of(member, task) for task, _, member in explained_answerers(wildcards)]


def explained_argument(wildcards):
    names = ["/".join(answerer) for answerer in explained_answerers(wildcards)]
    models, heads = explained_models(wildcards), explained_heads(wildcards)
    return f"{named('model', models, names)} {named('head', heads, names)}"


def explained_sets(target):
    """task/surrogate → its examples of the attack that is explained."""
    cell = study.explanations.attack
    return {
        f"{t}/{s}": ADVERSARIAL.format(task=t, surrogate=s, attack=cell)
        for t in study.tasks
        for s in study.explained(target)
    }


def explained_sets_paths(wildcards):
    return list(explained_sets(wildcards.target).values())


def explained_sets_argument(wildcards):
    sets = explained_sets(wildcards.target)
    return named("adversarial", sets.values(), sets)


def explain_config(wildcards):
    return canonical(study.explain_slice(wildcards.target))


def surgery_dose_config(wildcards):
    return canonical(study.surgery_dose_slice(wildcards.merged))


EXPLAINED_SETS = explained_sets("")
EXPLAINED = {
    **{f"pairs/{target}": PAIRS.format(target=target) for target in study.explained_targets},
    **{f"dose/{name}": DOSE.format(merged=name) for name in study.with_surgery},
    "path": WEIGHT_PATH,
    "plane": WEIGHT_PLANE,
}
EXPLANATIONS_CONFIG = canonical(study.explanations_slice())


def report_folder(wildcards, output):
    return str(Path(output.tables[0]).parents[1])


def explanation_figures():
    """Every figure of explanations in every format, each with a caption of its own."""
    return [path for name in study.drawn_explanations for path in figure_files(name, name)]
