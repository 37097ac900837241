# Images of every task in five disjoint splits, and the pretraining corpus.


def data_code(wildcards):
    return code("data", f"advmerge.data.{data.SOURCES[study.kind(wildcards.task)]}")


def source_files(kind, options):
    """What a source reads beside its code; ours relative to here, so that records hold wherever the clone lies."""
    found = [Path(path) for path in data.files(kind, options)]
    return [
        str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
        for path in found
    ]


def data_files(wildcards):
    return source_files(study.kind(wildcards.task), study.tasks[wildcards.task])


def data_config(wildcards):
    return canonical(study.data_slice(wildcards.task))


rule corpus:
    input:
        code=code("corpus"),
        files=source_files("latin", {}),
    output:
        CORPUS,
    log:
        f"{LOGS}/data/corpus.log",
    params:
        config=canonical(study.corpus_slice()),
    shell:
        "{JOB} --log {log} {input.code[0]} --config {params.config:q} --output {output}"


rule data:
    input:
        code=data_code,
        files=data_files,
    output:
        DATA,
    log:
        f"{LOGS}/data/{{task}}.log",
    params:
        config=data_config,
    shell:
        "{JOB} --log {log} {input.code[0]} --config {params.config:q} --output {output}"


rule all_data:
    input:
        CORPUS,
        each_task(DATA),
