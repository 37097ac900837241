# Tables and figures: queries on the outcomes.


rule tables:
    input:
        code=code("tables"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        accuracy=f"{RESULTS}/accuracy.parquet",
    output:
        table_files(),
    log:
        f"{LOGS}/tables.log",
    conda:
        ENVIRONMENT
    params:
        config=REPORT_CONFIG,
        folder=folder_of,
    shell:
        "python -IS src/advmerge/jobs/launch.py --cold --log {log} {input.code[0]} "
        "--config {params.config:q} --outcomes {input.outcomes} --accuracy {input.accuracy} "
        "--output-dir {params.folder}"


rule figure:
    input:
        code=code("figure"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        accuracy=f"{RESULTS}/accuracy.parquet",
    output:
        list(figure_files("{figure}", "figure")),
    log:
        f"{LOGS}/figures/{{figure}}.log",
    conda:
        ENVIRONMENT
    params:
        config=figure_config,
        folder=folder_of,
    shell:
        "python -IS src/advmerge/jobs/launch.py --cold --log {log} {input.code[0]} "
        "--config {params.config:q} --outcomes {input.outcomes} --accuracy {input.accuracy} "
        "--output-dir {params.folder}"


rule gallery:
    input:
        code=code("gallery"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        data=each_task(DATA),
        adversarial=list(GALLERY_SETS.values()),
    output:
        list(figure_files("gallery", "gallery")),
    log:
        f"{LOGS}/gallery.log",
    conda:
        ENVIRONMENT
    params:
        config=REPORT_CONFIG,
        folder=folder_of,
        data=named("data", each_task(DATA)),
        adversarial=named("adversarial", GALLERY_SETS.values(), GALLERY_SETS),
    shell:
        "python -IS src/advmerge/jobs/launch.py --cold --log {log} {input.code[0]} "
        "--config {params.config:q} --outcomes {input.outcomes} {params.data} "
        "{params.adversarial} --output-dir {params.folder}"


rule figures:
    input:
        expand(rules.figure.output, figure=study.drawn),
        rules.gallery.output,


rule report:
    input:
        rules.tables.output,
        rules.figures.input,
