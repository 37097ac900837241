# The merged models: a method on the experts' weights, and representation surgery on top of one.


rule merge:
    input:
        code=merge_code,
        pretrained=PRETRAINED,
        finetuned=merge_experts,
        heads=merge_heads,
        data=merge_data,
    output:
        MERGED,
    log:
        f"{LOGS}/merged/{{merged}}.log",
    wildcard_constraints:
        merged="|".join(PLAIN),
    priority: 70
    conda:
        ENVIRONMENT
    resources:
        **asks("merge"),
        gpu=GPU,
    params:
        config=merge_config,
        ingredients=merge_argument,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} "
        "{params.ingredients} --output {output}"


rule surgery:
    input:
        code=code("surgery"),
        base=surgery_base,
        finetuned=surgery_experts,
        data=each_task(DATA),
    output:
        MERGED,
    log:
        f"{LOGS}/merged/{{merged}}.log",
    wildcard_constraints:
        merged="|".join(WITH_SURGERY or ["(?!)"]),
    priority: 60
    conda:
        ENVIRONMENT
    resources:
        **asks("surgery"),
        gpu=GPU,
    params:
        config=surgery_config,
        finetuned=surgery_experts_argument,
        data=named("data", each_task(DATA)),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --base {input.base} "
        "{params.finetuned} {params.data} --output {output}"


rule all_merged:
    input:
        expand(MERGED, merged=study.every(study.merging)),
