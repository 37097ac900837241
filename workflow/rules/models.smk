# The pretrained encoder P, a frozen head a task, an expert F_t a task, and the jointly trained model. Surrogates of
# another architecture have a pretrained encoder, heads and experts of their own; a bait is one more expert of P's.


rule pretrain:
    input:
        code=code("pretrain"),
        corpus=CORPUS,
    output:
        ENCODER,
    log:
        f"{LOGS}/models/{{encoder}}.log",
    wildcard_constraints:
        encoder="|".join(TRAINED or ["(?!)"]),
    priority: 100  # everything waits for it
    conda:
        ENVIRONMENT
    resources:
        **asks("pretrain"),
        gpu=GPU,
    params:
        config=pretrain_config,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --corpus {input.corpus} --output {output}"


rule unpack:
    input:
        code=code("unpack"),
    output:
        ENCODER,
    log:
        f"{LOGS}/models/{{encoder}}.log",
    wildcard_constraints:
        encoder="|".join(UNPACKED or ["(?!)"]),
    priority: 100
    conda:
        ENVIRONMENT
    resources:
        **asks("unpack"),
    params:
        config=unpack_config,
    shell:
        "python -IS src/advmerge/jobs/launch.py --log {log} {input.code[0]} "
        "--config {params.config:q} --output {output}"


rule features:
    input:
        code=code("features"),
        pretrained=ENCODER,
        corpus=CORPUS,
    output:
        FEATURES,
    log:
        f"{LOGS}/models/{{encoder}}.features.log",
    wildcard_constraints:
        encoder="|".join(study.measured_encoders or ["(?!)"]),
    priority: 95
    conda:
        ENVIRONMENT
    resources:
        **asks("features"),
        gpu=GPU,
    params:
        config=features_config,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} --output {output}"


rule head:
    input:
        code=code("head"),
        files=head_files,
        pretrained=head_encoder,
        features=head_features,
        data=head_data,
    output:
        HEAD,
    log:
        f"{LOGS}/heads/{{head}}.log",
    priority: 90
    conda:
        ENVIRONMENT
    resources:
        **asks("head"),
        gpu=GPU,
    params:
        config=head_config,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --features {input.features} "
        "--data {input.data} --output {output}"


rule finetune:
    input:
        code=code("finetune"),
        pretrained=expert_encoder,
        corpus=CORPUS_IF_ANY,
        data=expert_data,
        head=expert_head,
    output:
        EXPERT,
    log:
        f"{LOGS}/models/finetuned/{{expert}}.log",
    priority: 80
    conda:
        ENVIRONMENT
    resources:
        **asks("finetune"),
        gpu=GPU,
    params:
        config=finetune_config,
        task=expert_task,
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
        "--data {params.task}={input.data} --head {params.task}={input.head} --output {output}"


rule multitask:
    input:
        code=code("finetune"),
        pretrained=PRETRAINED,
        corpus=CORPUS_IF_ANY,
        data=each_task(DATA),
        heads=each_task(HEAD),
    output:
        MULTITASK,
    log:
        f"{LOGS}/models/{{multitask}}.log",
    priority: 85
    conda:
        ENVIRONMENT
    resources:
        **asks("multitask"),
        gpu=GPU,
    params:
        config=multitask_config,
        data=named("data", each_task(DATA)),
        heads=named("head", each_task(HEAD)),
    shell:
        "python -IS src/advmerge/jobs/launch.py --gpu --log {log} {input.code[0]} "
        "--config {params.config:q} --pretrained {input.pretrained} --corpus {input.corpus} "
        "{params.data} {params.heads} --output {output}"


if PUBLISHED:

    ruleorder: published > finetune

    # Trained by others: P, or an expert in place of fine-tuning.
    rule published:
        input:
            code=code("published"),
            files=published_files,
            pretrained=published_base,
        output:
            f"{RESULTS}/models/{{published}}.safetensors",
        log:
            f"{LOGS}/models/{{published}}.log",
        wildcard_constraints:
            published="|".join(PUBLISHED),
        priority: 100
        conda:
            ENVIRONMENT
        resources:
            **asks("published"),
        params:
            config=published_config,
        shell:
            "python -IS src/advmerge/jobs/launch.py --log {log} {input.code[0]} "
            "--config {params.config:q} --pretrained {input.pretrained} --output {output}"


rule all_models:
    input:
        expand(ENCODER, encoder=study.encoders),
        expand(MULTITASK, multitask=study.every(["multitask"])),
        each_task(HEAD, study.heads),
        each_task(EXPERT, study.experts),
