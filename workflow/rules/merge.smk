# The merged models: a method on the experts' weights, and representation surgery on top of one.


def merge_code(wildcards):
    return code("merge", merging.module_of(study.merging[wildcards.merged]["method"]))


def merge_config(wildcards):
    return canonical(study.merge_slice(wildcards.merged))


def surgery_base(wildcards):
    return MERGED.format(merged=study.merging[wildcards.merged]["base"])


def surgery_config(wildcards):
    return canonical(study.surgery_slice(wildcards.merged))


rule merge:
    input:
        code=merge_code,
        pretrained=PRETRAINED,
        finetuned=each_task(FINETUNED),
        heads=each_task(HEAD),
        data=each_task(DATA),
    output:
        MERGED,
    log:
        f"{LOGS}/merged/{{merged}}.log",
    wildcard_constraints:
        merged="|".join(PLAIN),
    priority: 70
    resources:
        gpu=1,
    params:
        config=merge_config,
        finetuned=named("finetuned", each_task(FINETUNED)),
        heads=named("head", each_task(HEAD)),
        data=named("data", each_task(DATA)),
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --pretrained {input.pretrained} "
        "{params.finetuned} {params.heads} {params.data} --output {output}"


rule surgery:
    input:
        code=code("surgery"),
        base=surgery_base,
        finetuned=each_task(FINETUNED),
        data=each_task(DATA),
    output:
        MERGED,
    log:
        f"{LOGS}/merged/{{merged}}.log",
    wildcard_constraints:
        merged="|".join(WITH_SURGERY or ["(?!)"]),
    priority: 60
    resources:
        gpu=1,
    params:
        config=surgery_config,
        finetuned=named("finetuned", each_task(FINETUNED)),
        data=named("data", each_task(DATA)),
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --base {input.base} "
        "{params.finetuned} {params.data} --output {output}"


rule all_merged:
    input:
        [MERGED.format(merged=name) for name in study.merging],
