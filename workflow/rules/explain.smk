# Why examples transfer: what surrogates and targets have in common, surgery by dose, and the models in between.
# Pure inference on some of the attacked images, and one attack's examples.


rule explain:
    input:
        code=code("explain"),
        models=explained_models,
        heads=explained_heads,
        data=each_task(DATA),
        adversarial=explained_sets_paths,
    output:
        PAIRS,
    log:
        f"{LOGS}/explanations/pairs/{{target}}.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("explain"),
        gpu=GPU,
    params:
        config=explain_config,
        models=explained_argument,
        data=named("data", each_task(DATA)),
        adversarial=explained_sets_argument,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} {params.models} {params.data} {params.adversarial} --output {output}"


rule surgery_dose:
    input:
        code=code("surgery_dose"),
        model=MERGED,
        finetuned=each_task(EXPERT),
        heads=each_task(HEAD),
        data=each_task(DATA),
        adversarial=list(EXPLAINED_SETS.values()),
    output:
        DOSE,
    log:
        f"{LOGS}/explanations/dose/{{merged}}.log",
    wildcard_constraints:
        merged="|".join(WITH_SURGERY or ["(?!)"]),
    conda:
        ENVIRONMENT
    resources:
        **asks("surgery_dose"),
        gpu=GPU,
    params:
        config=surgery_dose_config,
        finetuned=named("finetuned", each_task(EXPERT)),
        heads=named("head", each_task(HEAD)),
        data=named("data", each_task(DATA)),
        adversarial=named("adversarial", EXPLAINED_SETS.values(), EXPLAINED_SETS),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --model {input.model} {params.finetuned} "
        "{params.heads} {params.data} {params.adversarial} --output {output}"


rule weight_path:
    input:
        code=code("weight_path"),
        pretrained=PRETRAINED,
        finetuned=each_task(EXPERT),
        heads=each_task(HEAD),
        data=each_task(DATA),
        adversarial=list(EXPLAINED_SETS.values()),
    output:
        WEIGHT_PATH,
    log:
        f"{LOGS}/explanations/path.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("weight_path"),
        gpu=GPU,
    params:
        config=canonical(study.weight_path_slice()),
        finetuned=named("finetuned", each_task(EXPERT)),
        heads=named("head", each_task(HEAD)),
        data=named("data", each_task(DATA)),
        adversarial=named("adversarial", EXPLAINED_SETS.values(), EXPLAINED_SETS),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} {params.finetuned} "
        "{params.heads} {params.data} {params.adversarial} --output {output}"


rule weight_plane:
    input:
        code=code("weight_plane"),
        pretrained=PRETRAINED,
        merged=MERGED.format(merged=study.explanations.plane.merged),
        finetuned=each_task(EXPERT),
        heads=each_task(HEAD),
        data=each_task(DATA),
        adversarial=list(EXPLAINED_SETS.values()),
    output:
        WEIGHT_PLANE,
    log:
        f"{LOGS}/explanations/plane.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("weight_plane"),
        gpu=GPU,
    params:
        config=canonical(study.weight_plane_slice()),
        finetuned=named("finetuned", each_task(EXPERT)),
        heads=named("head", each_task(HEAD)),
        data=named("data", each_task(DATA)),
        adversarial=named("adversarial", EXPLAINED_SETS.values(), EXPLAINED_SETS),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --merged {input.merged} {params.finetuned} "
        "{params.heads} {params.data} {params.adversarial} --output {output}"


rule all_explained:
    input:
        EXPLAINED.values(),


rule explanations:
    input:
        code=code("explanations"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        parts=list(EXPLAINED.values()),
    output:
        tables=table_files(associations),
        figures=explanation_figures(),
    log:
        f"{LOGS}/explanations.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("explanations"),
    params:
        config=EXPLANATIONS_CONFIG,
        parts=named("parts", EXPLAINED.values(), EXPLAINED),
        folder=report_folder,
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
        "--config {params.config:q} --outcomes {input.outcomes} {params.parts} --output-dir {params.folder}"
