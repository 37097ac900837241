# Tables and figures: queries on the outcomes.

from advmerge.figures import FIGURES, FORMATS
from advmerge.statistics import TABLES

REPORT_CONFIG = canonical(study.report_slice())
TABLE_FILES = [path for path in study.report_files() if "/tables/" in path]
GALLERY_SETS = {
    task: ADVERSARIAL.format(
        task=task, surrogate=study.gallery.surrogate, attack=study.gallery.attack
    )
    for task in study.tasks
}


def figure_files(gallery):
    """The figures' files, the gallery's or the others'; the SVGs go into Snakemake's report with their captions."""
    for path in study.report_files():
        stem = Path(path).stem
        if "/figures/" in path and (stem == "gallery") == gallery:
            if path.endswith(".svg"):
                path = report(
                    path, caption=f"../report/{FIGURES[stem]}", category="Figures"
                )
            yield path


rule tables:
    input:
        code=code("tables"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        accuracy=f"{RESULTS}/accuracy.parquet",
    output:
        TABLE_FILES,
    log:
        f"{LOGS}/tables.log",
    params:
        config=REPORT_CONFIG,
        folder=f"{REPORTS}/tables",
    shell:
        "{JOB_LIGHT} --log {log} {input.code[0]} --config {params.config:q} --outcomes {input.outcomes} --accuracy {input.accuracy} "
        "--output-dir {params.folder}"


rule figures:
    input:
        code=code("figures"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        accuracy=f"{RESULTS}/accuracy.parquet",
    output:
        list(figure_files(gallery=False)),
    log:
        f"{LOGS}/figures.log",
    params:
        config=REPORT_CONFIG,
        folder=f"{REPORTS}/figures",
    shell:
        "{JOB_LIGHT} --log {log} {input.code[0]} --config {params.config:q} --outcomes {input.outcomes} --accuracy {input.accuracy} "
        "--output-dir {params.folder}"


rule gallery:
    input:
        code=code("gallery"),
        outcomes=f"{RESULTS}/outcomes.parquet",
        data=each_task(DATA),
        adversarial=list(GALLERY_SETS.values()),
    output:
        list(figure_files(gallery=True)),
    log:
        f"{LOGS}/gallery.log",
    params:
        config=REPORT_CONFIG,
        folder=f"{REPORTS}/figures",
        data=named("data", each_task(DATA)),
        adversarial=named("adversarial", GALLERY_SETS.values(), GALLERY_SETS),
    shell:
        "{JOB_LIGHT} --log {log} {input.code[0]} --config {params.config:q} --outcomes {input.outcomes} {params.data} "
        "{params.adversarial} --output-dir {params.folder}"


rule report:
    input:
        rules.tables.output,
        rules.figures.output,
        rules.gallery.output,
