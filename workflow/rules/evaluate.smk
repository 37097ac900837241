# Pure inference: every model on the clean images, every target on every set of adversarial examples.


rule predict:
    input:
        code=code("predict"),
        models=models_of,
        heads=heads_of,
        data=each_task(DATA),
    output:
        CLEAN,
    log:
        f"{LOGS}/clean/{{model}}.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("predict"),
        gpu=GPU,
    params:
        config=predict_config,
        models=models_argument,
        data=named("data", each_task(DATA)),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} {params.models} {params.data} "
        "--output {output}"


rule evaluate:
    input:
        code=code("evaluate"),
        model=target_model,
        clean=clean_of_target,
        heads=each_task(HEAD),
        adversarial=adversarial_paths,
    output:
        OUTCOMES,
    log:
        f"{LOGS}/outcomes/{{target}}/{{attack}}.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("evaluate"),
        gpu=GPU,
    params:
        config=evaluate_config,
        heads=named("head", each_task(HEAD)),
        adversarial=adversarial_argument,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --model {input.model} --clean {input.clean} "
        "{params.heads} {params.adversarial} --output {output}"


rule outcomes:
    input:
        code=code("outcomes"),
        parts=list(CELLS.values()),
    output:
        f"{RESULTS}/outcomes.parquet",
    log:
        f"{LOGS}/outcomes.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("outcomes"),
    params:
        config=canonical({}),
        parts=named("parts", CELLS.values(), CELLS),
    shell:
        "python -IS src/advmerge/jobs/launch.py --log {log} {input.code[0]} "
        "--config {params.config:q} {params.parts} --output {output}"


rule accuracy:
    input:
        code=code("accuracy"),
        clean=list(ALL_CLEAN.values()),
    output:
        f"{RESULTS}/accuracy.parquet",
    log:
        f"{LOGS}/accuracy.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("accuracy"),
    params:
        config=canonical({}),
        clean=named("clean", ALL_CLEAN.values(), ALL_CLEAN),
    shell:
        "python -IS src/advmerge/jobs/launch.py --log {log} {input.code[0]} "
        "--config {params.config:q} {params.clean} --output {output}"


rule all_outcomes:
    input:
        rules.outcomes.output,
        rules.accuracy.output,
