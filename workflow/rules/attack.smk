# Adversarial examples: one job, one artifact for each task × surrogate × attack. Crafting never sees the merge,
# but for the white-box control, whose surrogate is the target itself.


def attack_code(wildcards):
    ours = attacks.module_of(study.cells()[wildcards.attack].method)
    return code("attack", *([ours] if ours else []))


def attack_model(wildcards):
    return study.model(wildcards.surrogate, wildcards.task)


def attack_config(wildcards):
    return canonical(
        study.attack_slice(wildcards.task, wildcards.surrogate, wildcards.attack)
    )


rule attack:
    input:
        code=attack_code,
        model=attack_model,
        head=HEAD,
        data=DATA,
    output:
        ADVERSARIAL,
    log:
        f"{LOGS}/adversarial/{{task}}/{{surrogate}}/{{attack}}.log",
    resources:
        gpu=1,
    params:
        config=attack_config,
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --model {input.model} --head {input.head} "
        "--data {input.data} --output {output}"


rule all_adversarial:
    input:
        [
            ADVERSARIAL.format(task=t, surrogate=s, attack=c)
            for t, s, c in study.surrogate_cells()
        ],
