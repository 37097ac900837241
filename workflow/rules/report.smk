# Tables, tests, verdicts and figures: queries on the outcomes.


rule tables:
    input:
        code=code("tables"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        accuracy=f"{RESULTS}/accuracy.parquet",
    output:
        table_files(statistics),
    log:
        f"{LOGS}/tables.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("tables"),
    params:
        config=REPORT_CONFIG,
        folder=folder_of,
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
        "--config {params.config:q} --outcomes {input.outcomes} --accuracy {input.accuracy} "
        "--output-dir {params.folder}"


rule comparison:
    input:
        code=code("comparison"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        accuracy=f"{RESULTS}/accuracy.parquet",
    output:
        table_files(comparison),
    log:
        f"{LOGS}/comparison.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("comparison"),
    params:
        config=REPORT_CONFIG,
        folder=folder_of,
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
        "--config {params.config:q} --outcomes {input.outcomes} --accuracy {input.accuracy} "
        "--output-dir {params.folder}"


rule claims:
    input:
        code=code("claims"),
        claims="claims.yaml",
        outcomes=f"{RESULTS}/outcomes.parquet",
        accuracy=f"{RESULTS}/accuracy.parquet",
    output:
        verdicts=f"{REPORTS}/claims.json",
        table=table_files(claims),
    log:
        f"{LOGS}/claims.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("claims"),
    params:
        config=CLAIMS_CONFIG,
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
        "--config {params.config:q} --claims {input.claims} --outcomes {input.outcomes} --accuracy {input.accuracy} "
        "--output-verdicts {output.verdicts} --output-table {output.table}"


rule summary:
    input:
        code=code("summary"),
        tables=SUMMARISED.values(),
    output:
        tables=table_files(summary),
        metrics=f"{REPORTS}/metrics.json",
    log:
        f"{LOGS}/summary.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("summary"),
    params:
        config=REPORT_CONFIG,
        tables=named("table", SUMMARISED.values(), SUMMARISED),
        folder=folder_of,
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
        "--config {params.config:q} {params.tables} "
        "--output-metrics {output.metrics} --output-dir {params.folder}"


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
    resources:
        **asks("figure"),
    params:
        config=figure_config,
        folder=folder_of,
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
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
    resources:
        **asks("gallery"),
    params:
        config=REPORT_CONFIG,
        folder=folder_of,
        data=named("data", each_task(DATA)),
        adversarial=named("adversarial", GALLERY_SETS.values(), GALLERY_SETS),
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
        "--config {params.config:q} --outcomes {input.outcomes} {params.data} "
        "{params.adversarial} --output-dir {params.folder}"


rule figures:
    input:
        expand(rules.figure.output, figure=study.drawn),
        rules.gallery.output,


rule page:
    input:
        code=code("page"),
        parts=page.PARTS,
        table=list(PAGE_TABLES.values()),
        verdicts=f"{REPORTS}/claims.json",
        outcomes=f"{RESULTS}/outcomes.parquet",
        data=each_task(DATA),
        adversarial=list(GALLERY_SETS.values()),
        model=list(PAGE_MODELS.values()),
    output:
        f"{REPORTS}/index.html",
    log:
        f"{LOGS}/page.log",
    conda:
        ENVIRONMENT
    resources:
        **asks("page"),
    params:
        config=PAGE_CONFIG,
        table=named("table", PAGE_TABLES.values(), PAGE_TABLES),
        data=named("data", each_task(DATA)),
        adversarial=named("adversarial", GALLERY_SETS.values(), GALLERY_SETS),
        model=named("model", PAGE_MODELS.values(), PAGE_MODELS),
    shell:
        "python -IS src/advmerge/jobs/launch.py --tables --log {log} {input.code[0]} "
        "--config {params.config:q} {params.table} --verdicts {input.verdicts} --outcomes {input.outcomes} "
        "{params.data} {params.adversarial} {params.model} --output {output}"


rule report:
    input:
        rules.tables.output,
        rules.comparison.output,
        rules.claims.output,
        rules.summary.output,
        rules.figures.input,
        rules.explanations.output,
        rules.page.output,
