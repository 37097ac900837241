# Images of every task (and of every bait's set) in five disjoint splits, and the pretraining corpus.


rule corpus:
    input:
        code=code("corpus"),
        files=source_files("latin", {}),
    output:
        CORPUS,
    log:
        f"{LOGS}/data/corpus.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("corpus"),
    params:
        config=canonical(study.corpus_slice()),
    shell:
        "python -IS src/advmerge/jobs/launch.py --log {log} {input.code[0]} "
        "--config {params.config:q} --output {output}"


rule data:
    input:
        code=data_code,
        files=data_files,
    output:
        DATA,
    log:
        f"{LOGS}/data/{{task}}.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("data"),
    params:
        config=data_config,
    shell:
        "python -IS src/advmerge/jobs/launch.py --log {log} {input.code[0]} "
        "--config {params.config:q} --output {output}"


rule all_data:
    input:
        CORPUS_IF_ANY,
        each_task(DATA, study.sets),
