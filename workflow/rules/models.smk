# The pretrained encoder P, a frozen head a task, an expert F_t a task, and the jointly trained model.


rule pretrain:
    input:
        code=code("pretrain"),
        corpus=CORPUS,
    output:
        PRETRAINED,
    log:
        f"{LOGS}/models/pretrained.log",
    priority: 100  # everything waits for it
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
    params:
        config=canonical(study.pretrain_slice()),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --corpus {input.corpus} --output {output}"


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
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
    params:
        config=head_config,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
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
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
    params:
        config=finetune_config,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
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
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
    params:
        config=canonical(study.multitask_slice()),
        data=named("data", each_task(DATA)),
        heads=named("head", each_task(HEAD)),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
        "{params.data} {params.heads} --output {output}"


rule all_models:
    input:
        PRETRAINED,
        MULTITASK,
        each_task(HEAD),
        each_task(FINETUNED),
