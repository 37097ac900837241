# The pretrained encoder P, a frozen head a task, an expert F_t a task, and the jointly trained model.


def head_config(wildcards):
    return canonical(study.head_slice(wildcards.task))


def finetune_config(wildcards):
    return canonical(study.finetune_slice(wildcards.task))


rule pretrain:
    input:
        code=code("pretrain"),
        corpus=CORPUS,
    output:
        PRETRAINED,
    log:
        f"{LOGS}/models/pretrained.log",
    priority: 100  # everything waits for it
    resources:
        gpu=1,
    params:
        config=canonical(study.pretrain_slice()),
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --corpus {input.corpus} --output {output}"


rule head:
    input:
        code=code("head"),
        pretrained=PRETRAINED,
        corpus=CORPUS,
        data=DATA,
    output:
        HEAD,
    log:
        f"{LOGS}/heads/{{task}}.log",
    priority: 90
    resources:
        gpu=1,
    params:
        config=head_config,
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
        "--data {input.data} --output {output}"


rule finetune:
    input:
        code=code("finetune"),
        pretrained=PRETRAINED,
        corpus=CORPUS,
        data=DATA,
        head=HEAD,
    output:
        FINETUNED,
    log:
        f"{LOGS}/models/finetuned/{{task}}.log",
    priority: 80
    resources:
        gpu=1,
    params:
        config=finetune_config,
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
        "--data {wildcards.task}={input.data} --head {wildcards.task}={input.head} --output {output}"


rule multitask:
    input:
        code=code("finetune"),
        pretrained=PRETRAINED,
        corpus=CORPUS,
        data=each_task(DATA),
        heads=each_task(HEAD),
    output:
        MULTITASK,
    log:
        f"{LOGS}/models/multitask.log",
    priority: 85
    resources:
        gpu=1,
    params:
        config=canonical(study.multitask_slice()),
        data=named("data", each_task(DATA)),
        heads=named("head", each_task(HEAD)),
    shell:
        "{JOB_GPU} --log {log} {input.code[0]} --config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
        "{params.data} {params.heads} --output {output}"


rule all_models:
    input:
        PRETRAINED,
        MULTITASK,
        each_task(HEAD),
        each_task(FINETUNED),
