# Adversarial examples: one job, one artifact for each task × surrogate × attack. Crafting never sees the merge,
# but for the white-box control, whose surrogate is the target itself.


rule attack:
    input:
        code=attack_code,
        models=attack_models,
        heads=attack_heads,
        data=DATA,
    output:
        ADVERSARIAL,
    log:
        f"{LOGS}/adversarial/{{task}}/{{surrogate}}/{{attack}}.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("attack"),
        gpu=GPU,
    params:
        config=attack_config,
        models=attack_argument,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} {params.models} "
        "--data {input.data} --output {output}"


rule all_adversarial:
    input:
        [ADVERSARIAL.format(task=t, surrogate=s, attack=c) for t, s, c in study.surrogate_cells()],
