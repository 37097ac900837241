# Pure inference: every model on the clean images, every target on every set of adversarial examples.


def models_of(wildcards):
    """The model that answers for each task; the fine-tuned one is each task's own."""
    return [study.model(wildcards.model, task) for task in study.tasks]


def models_argument(wildcards):
    return named("model", models_of(wildcards))


def predict_config(wildcards):
    return canonical(study.predict_slice(wildcards.model))


def target_model(wildcards):
    return study.model(wildcards.target, "")


def clean_of_target(wildcards):
    return CLEAN.format(model=wildcards.target)


def adversarial_sets(wildcards):
    """task/surrogate → the examples of this attack that the target faces, its own white-box ones among them."""
    own = [wildcards.target] if wildcards.attack in study.white_box_cells() else []
    return {
        f"{task}/{surrogate}": ADVERSARIAL.format(
            task=task, surrogate=surrogate, attack=wildcards.attack
        )
        for task in study.tasks
        for surrogate in [*study.surrogates, *own]
    }


def adversarial_paths(wildcards):
    return list(adversarial_sets(wildcards).values())


def adversarial_argument(wildcards):
    sets = adversarial_sets(wildcards)
    return named("adversarial", sets.values(), sets)


def evaluate_config(wildcards):
    return canonical(study.evaluate_slice(wildcards.target, wildcards.attack))


CELLS = {
    f"{t}/{c}": OUTCOMES.format(target=t, attack=c)
    for t in study.targets
    for c in study.cells()
}
ALL_CLEAN = {
    model: CLEAN.format(model=model)
    for model in ("pretrained", "finetuned", *study.targets)
}


rule predict:
    input:
        code=code("predict"),
        models=models_of,
        heads=each_task(HEAD),
        data=each_task(DATA),
    output:
        CLEAN,
    log:
        f"{LOGS}/clean/{{model}}.log",
    resources:
        gpu=1,
    params:
        config=predict_config,
        models=models_argument,
        heads=named("head", each_task(HEAD)),
        data=named("data", each_task(DATA)),
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} {params.models} {params.heads} {params.data} "
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
    resources:
        gpu=1,
    params:
        config=evaluate_config,
        heads=named("head", each_task(HEAD)),
        adversarial=adversarial_argument,
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --model {input.model} --clean {input.clean} "
        "{params.heads} {params.adversarial} --output {output}"


rule outcomes:
    input:
        code=code("outcomes"),
        parts=list(CELLS.values()),
    output:
        f"{RESULTS}/outcomes.parquet",
    log:
        f"{LOGS}/outcomes.log",
    params:
        config=canonical({}),
        parts=named("parts", CELLS.values(), CELLS),
    shell:
        "{JOB} --log {log} {input.code[0]} --config {params.config:q} {params.parts} --output {output}"


rule accuracy:
    input:
        code=code("accuracy"),
        clean=list(ALL_CLEAN.values()),
    output:
        f"{RESULTS}/accuracy.parquet",
    log:
        f"{LOGS}/accuracy.log",
    params:
        config=canonical({}),
        clean=named("clean", ALL_CLEAN.values(), ALL_CLEAN),
    shell:
        "{JOB} --log {log} {input.code[0]} --config {params.config:q} {params.clean} --output {output}"


rule all_outcomes:
    input:
        rules.outcomes.output,
        rules.accuracy.output,
