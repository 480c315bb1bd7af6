from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from tasks.config import Pipeline, Pipelines
from tasks.errors import ConfigError
from tasks.load import load, merge, names, resolve, schema

ROOT = Path(__file__).parents[1]

TEXT = """\
defaults:
  seed: 7
  training:
    warmup: 0.2
pipelines:
  reviews:
    description: From movies to products
    application:
      kind: text_classification
      labels: [negative, positive]
    backbone: {path: backbones/tiny}
    sources:
      movies:
        path: data/movies
    target:
      products:
        path: data/products
    paradigm:
      kind: fine_tuning
    training:
      epochs: 3
    promotion:
      model: reviews
  others: {}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(TEXT)
    return path


def refusal(path: Path, text: str = TEXT, *overrides: str, name: str = "reviews") -> str:
    """The one line that a file is refused with."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, name, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, f"'{old}' must be there once"
    return TEXT.replace(old, new)


def line_of(text: str, mark: str) -> int:
    """The number of the last line that holds this."""
    return max(i for i, line in enumerate(text.splitlines(), 1) if mark in line)


# (what is wrong, old text, new text, the line that is named, what the message says)
BAD = [
    ("unknown key", "epochs: 3", "epoks: 3", "epoks",
     ["unknown key 'training.epoks'", "clip_norm", "epochs", "weight_decay"]),
    ("unknown key of a pipeline", "promotion:\n", "promotoin: 1\n    promotion:\n", "promotoin",
     ["unknown key 'promotoin'", "promotion", "evaluation"]),
    ("unknown key of a domain", "path: data/movies", "path: data/movies\n        columm: {}",
     "columm", ["unknown key 'sources.movies.columm'", "columns", "label_rule"]),
    ("unknown key of a paradigm", "kind: fine_tuning", "kind: fine_tuning\n      freze: 2", "freze",
     ["unknown key 'paradigm.freze'", "freeze", "lora"]),
    ("unknown key inside a paradigm", "kind: fine_tuning",
     "kind: fine_tuning\n      lora:\n        rnk: 4", "rnk",
     ["unknown key 'paradigm.lora.rnk'", "alpha, dropout, rank"]),
    ("unknown key of an application", "kind: text_classification",
     "kind: text_classification\n      label: [a, b]", "label: [a",
     ["unknown key 'application.label'", "labels", "maximum_tokens"]),
    ("unknown key in a rule of scores", "path: data/movies",
     "path: data/movies\n        label_rule:\n          negative: {maximun: 1}", "maximun",
     ["maximun", "minimum"]),
    ("unknown key at the top", "pipelines:\n", "pipeline: {}\npipelines:\n", "pipeline: {}",
     ["unknown key 'pipeline'", "defaults, pipelines"]),
    ("unknown application", "kind: text_classification", "kind: text_clasification", "clasif",
     ["'application.kind'", '"text_clasification"', "'text_classification'"]),
    ("unknown paradigm", "kind: fine_tuning", "kind: fine_toning", "toning",
     ["'paradigm.kind'", '"fine_toning"', "'fine_tuning'"]),
    ("no kind", "      kind: fine_tuning", "      freeze: 1", "paradigm",
     ["'paradigm.kind' is missing"]),
    ("a word for a number", "epochs: 3", "epochs: three", "three",
     ["'training.epochs'", '"three"', "integer"]),
    ("a fraction for a count", "epochs: 3", "epochs: 2.5", "2.5",
     ["'training.epochs'", "2.5", "integer"]),
    ("a number for a word", "path: data/movies", "path: 5", "path: 5",
     ["'sources.movies.path'", "5", "string"]),
    ("a truth for a number", "epochs: 3", "epochs: true", "true",
     ["'training.epochs'", "true", "integer"]),
    ("a word for a mapping", "{path: backbones/tiny}", "tiny", "tiny",
     ["'backbone'", '"tiny"', "object"]),
    ("a word for a range", "path: data/movies",
     "path: data/movies\n        label_rule:\n          negative:\n            maximum: low", "low",
     ["maximum", '"low"', "number"]),
    ("an item of a list", "labels: [negative, positive]", "labels:\n      - negative\n      - 5",
     "- 5", ["'application.labels.1'", "5", "string"]),
    ("one label", "[negative, positive]", "[positive]", "[positive]",
     ["'application.labels'", '["positive"]', "at least 2"]),
    ("null for a mapping", "\n      epochs: 3", "", "training:",
     ["'training' is null"]),
    ("missing key", "    backbone: {path: backbones/tiny}\n", "", "reviews:",
     ["'backbone' is missing"]),
    ("missing key of a domain", "        path: data/products", "        labelled: 5", "products:",
     ["'target.products.path' is missing"]),
    ("too small", "epochs: 3", "epochs: 0", "epochs: 0",
     ["'training.epochs'", "is 0", "greater than 0"]),
    ("too large", "epochs: 3", "dropout: 1.0", "dropout",
     ["'training.dropout'", "is 1.0", "less than 1"]),
    ("not a number", "epochs: 3", "learning_rate: .nan", ".nan", ["'training.learning_rate'"]),
    ("infinite", "epochs: 3", "learning_rate: .inf", ".inf", ["'training.learning_rate'"]),
    ("negative", "epochs: 3", "weight_decay: -0.1", "-0.1",
     ["'training.weight_decay'", "-0.1", "greater than or equal to 0"]),
    ("not among the accepted", "epochs: 3", "precision: float16", "float16",
     ["'training.precision'", '"float16"', "'auto', 'float32' or 'bfloat16'"]),
    ("bad baseline", "    promotion:\n",
     "    evaluation:\n      baselines:\n      - majority\n      - magic\n    promotion:\n",
     "magic",
     ["'evaluation.baselines.1'", '"magic"',
      "'majority', 'copy', 'lead', 'source_only' or 'target_only'"]),
    ("bad model name", "model: reviews", "model: my reviews", "my reviews",
     ["'promotion.model'", '"my reviews"', "pattern"]),
    ("bad name of a domain", "      movies:", "      my movies:", "my movies",
     ["my movies", "pattern"]),
    ("two targets", "    paradigm:\n", "      others: {path: x}\n    paradigm:\n", "target:",
     ["'target'", "at most 1"]),
    ("no source", "\n      movies:\n        path: data/movies", " {}", "sources:",
     ["'sources'", "at least 1"]),
    ("broken syntax", "[negative, positive]", "[negative, positive", "backbone:", ["expected"]),
    ("a tab", "      epochs: 3", "\tepochs: 3", "epochs", ["'\\t'"]),
    ("a key twice", "epochs: 3", "epochs: 3\n      epochs: 4", "epochs: 4",
     ["duplicate key", '"epochs"']),
    ("a pipeline twice", "  others: {}", "  reviews: {}", "reviews: {}",
     ["duplicate key", '"reviews"']),
    ("an anchor that is not there", "epochs: 3", "epochs: *none", "*none", ["alias", "none"]),
    ("variable that is not set", "data/movies", "${GRAFT_TEST_UNSET}/movies", "UNSET",
     ["GRAFT_TEST_UNSET", "not set"]),
    ("error in defaults", "warmup: 0.2", "warmup: 2", "warmup: 2",
     ["'training.warmup'", "is 2", "less than 1"]),
    ("unknown key in defaults", "  seed: 7", "  sed: 7", "sed", ["unknown key 'sed'", "seed"]),
    ("variable in defaults", "  seed: 7", "  description: x\n  validation: ${GRAFT_TEST_UNSET}",
     "UNSET", ["GRAFT_TEST_UNSET", "not set"]),
    ("defaults that are a list", "  seed: 7\n  training:\n    warmup: 0.2", "  - 5", "defaults",
     ["defaults", "mapping"]),
    ("defaults that are a word", "\n  seed: 7\n  training:\n    warmup: 0.2", " none", "defaults",
     ["defaults", "mapping"]),
    ("an error in what a merge key brings", "epochs: 3", "<<: {warmup: 4}", "<<",
     ["'training.warmup'", "is 4", "less than 1"]),
    ("lora beside freeze", "kind: fine_tuning",
     "kind: fine_tuning\n      freeze: 1\n      lora: {}", "paradigm:",
     ["lora", "freeze"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "mark", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_input(file: Path, old: str, new: str, mark: str, says: list[str]) -> None:
    """One line that names file and line, the value, and what is accepted."""
    text = edited(old, new)
    message = refusal(file, text)
    assert message.startswith(f"{file}:{line_of(text, mark)}: ")
    for part in says:
        assert part in message


CROSS = [
    ("drift that nothing learns from", "    promotion:\n",
     "    monitoring: {text: served, retrain: true}\n    promotion:\n",
     ["monitoring.retrain: 'fine_tuning' does not read", "domain_adaptation", "data: target"]),
    ("unknown metric", "    promotion:\n", "    evaluation:\n      metric: bleu\n    promotion:\n",
     ["evaluation.metric 'bleu'", "macro_f1, accuracy"]),
    ("target also a source", "products:", "movies:",
     ["target 'movies'", "also a source", "another name"]),
    ("rule with an unknown label", "path: data/products",
     "path: data/products\n        label_rule: {neutral: [0]}",
     ["'neutral'", "'products'", "negative, positive"]),
    ("column of a field that is not there", "path: data/products",
     "path: data/products\n        columns: {texts: review}",
     ["'texts'", "'products'", "accepted: text, label"]),
    ("ranges that overlap", "path: data/products",
     "path: data/products\n        label_rule: {negative: {maximum: 2}, positive: {minimum: 2}}",
     ["'negative'", "'positive'", "overlap at 2"]),
    ("a range that is empty", "path: data/products",
     "path: data/products\n        label_rule: {negative: {minimum: 2, maximum: 1}}",
     ["minimum 2", "above maximum 1"]),
    ("meta-learning with one task", "kind: fine_tuning", "kind: meta_learning",
     ["there is one source", "paradigm.ways"]),
    ("more labels an episode than there are", "kind: fine_tuning",
     "kind: meta_learning\n      ways: 3", ["paradigm.ways is 3", "'movies' has 2 labels"]),
    ("no labels of the target", "path: data/products",
     "path: data/products\n        labelled: 0", ["labelled is 0", "fine_tuning needs labels"]),
    ("LoRA on frozen layers", "kind: fine_tuning",
     "kind: fine_tuning\n      freeze: 2\n      lora: {}",
     ["lora keeps every layer", "remove freeze"]),
    ("weights of an unknown task", "kind: fine_tuning",
     "kind: multi_task\n      weights: {news: 2}", ["paradigm.weights names 'news'"]),
    ("no backbone", "{path: backbones/tiny}", "{}", ["give either path, or new"]),
    ("two backbones", "{path: backbones/tiny}", "{path: tiny, new: {}}",
     ["give either path, or new"]),
    ("heads that do not divide", "{path: backbones/tiny}",
     "{new: {width: 100, heads: 3}}", ["width 100 is no multiple of heads 3"]),
    ("a copy of what has labels", "    paradigm:",
     "    evaluation: {baselines: [copy]}\n    paradigm:",
     ["text_classification has no 'copy'", "accepted: majority, source_only, target_only"]),
    ("a majority of what is written",
     "kind: text_classification\n      labels: [negative, positive]",
     "kind: translation\n    evaluation: {baselines: [majority]}",
     ["translation has no 'majority'", "accepted: copy"]),
    ("a value with two labels", "path: data/products",
     "path: data/products\n        label_rule: {negative: [0, 1], positive: [1]}",
     ["both 'negative' and 'positive' are given '1'"]),
    ("a label with blanks", "labels: [negative, positive]", 'labels: [negative, "positive "]',
     ["'positive ' is empty or has blanks"]),
    ("a baseline that cannot be", "    paradigm:",
     "    source_training: null\n    evaluation: {baselines: [source_only]}\n    paradigm:",
     ["source_only needs source_training"]),
    ("a label twice", "labels: [negative, positive]", "labels: [negative, positive, negative]",
     ["labels", "'negative' is there twice"]),
    ("an entity type twice", "kind: text_classification\n      labels: [negative, positive]",
     "kind: ner\n      labels: [person, person]", ["labels", "'person' is there twice"]),
    ("a seed that torch cannot take", "    paradigm:", "    seed: 4294967296\n    paradigm:",
     ["seed", "4294967296"]),
    ("a target that is not learned", "kind: fine_tuning",
     "kind: multi_task\n      weights: {text_classification: 0}",
     ["gives the target's 'text_classification' 0"]),
    ("meta-learning with one task, drawn", "kind: fine_tuning",
     "kind: meta_learning\n      ways: 2", ["there is one source", "some of its labels"]),
    ("sources that nothing reads", "    paradigm:", "    source_training: null\n    paradigm:",
     ["source_training is null", "fine_tuning reads no sources"]),
    ("a source's score without its model", "model: reviews",
     "model: reviews\n      source_drop: 0.1\n    source_training: null",
     ["promotion.source_drop needs source_training"]),
    ("slices of a source", "movies:\n", "movies:\n        slices: [country]\n",
     ["slices are of the target's test rows"]),
    ("two words on how often", "kind: fine_tuning",
     "kind: multi_task\n      temperature: 5\n      shares: {movies: 1, products: 1}",
     ["remove temperature, or shares"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), [c[1:] for c in CROSS], ids=[c[0] for c in CROSS])
def test_what_does_not_go_together(file: Path, old: str, new: str, says: list[str]) -> None:
    """What no field can refuse alone is refused with the pipeline's lines and what is accepted."""
    text = edited(old, new)
    message = refusal(file, text)
    where, _, rest = message.removeprefix(f"{file}:").partition(": ")
    assert int(where) >= line_of(text, "  reviews:")
    for part in says:
        assert part in rest


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("paradigm={kind: domain_adaptation, method: information}", "information is about labels"),
        ("paradigm={kind: fine_tuning, head: prototypes}", "prototypes are of labels"),
        ("paradigm={kind: meta_learning, method: prototypical}", "prototypes are of labels"),
        ("paradigm={kind: meta_learning, ways: 2}", "'movies' has 0 labels"),
        ("training.early_stopping={watch: text}", "translation has none; accepted: labels"),
    ],
)
def test_what_is_about_labels(file: Path, override: str, says: str) -> None:
    """Where text is written there are none, and what is about them is refused."""
    assert says in refusal(file, TEXT, "application={kind: translation}", override)


def test_values_differ_by_their_letters(file: Path) -> None:
    """Yes and yes are two values, as they are in the data."""
    rule = "label_rule: {negative: ['Yes'], positive: ['yes']}"
    file.write_text(edited("path: data/products", f"path: data/products\n        {rule}"))
    found = load(file, "reviews").target["products"].label_rule
    assert found == {"negative": ("Yes",), "positive": ("yes",)}


def test_the_first_error_is_named(file: Path) -> None:
    """Of several errors the one that stands first in the file is named."""
    text = edited("seed: 7", "seed: -7").replace("epochs: 3", "epochs: 0")
    assert refusal(file, text).startswith(f"{file}:2: 'seed'")


def test_unknown_pipeline(file: Path) -> None:
    """A pipeline that is not there is refused with those that are."""
    message = refusal(file, name="review")
    assert message.startswith(str(file))
    assert "'review'" in message
    assert "reviews, others" in message


@pytest.mark.parametrize(
    "name", ["2024", "no such"], ids=["a pipeline named by a number", "another beside it"]
)
def test_pipeline_named_by_a_number(file: Path, name: str) -> None:
    """YAML reads 2024 as a number; as a name it is found, and it can be listed as accepted."""
    file.write_text(edited("  reviews:\n", "  2024:\n"))
    assert names(file)[0] == "2024"
    if name == "2024":
        assert load(file, name).seed == 7
    else:
        assert "2024" in refusal(file, file.read_text(), name=name)


def test_pipeline_with_a_bad_name(file: Path) -> None:
    """A pipeline's name becomes part of others, so it is letters, digits, _ and -."""
    text = edited("  reviews:\n", "  my reviews/../x:\n")
    message = refusal(file, text, name="my reviews/../x")
    assert message.startswith(f"{file}:6: ")
    assert "pattern" in message or "accepted" in message


@pytest.mark.parametrize("text", ["", "5", "[]", "a: 1", "pipelines: []", "pipelines: 3"])
def test_no_pipelines(file: Path, text: str) -> None:
    """A file without pipelines is refused on its first line."""
    message = refusal(file, text)
    assert message.startswith(f"{file}:1: ")
    assert "pipelines" in message


def test_pipeline_that_is_no_mapping(file: Path) -> None:
    """A pipeline must be a mapping."""
    text = edited("others: {}", "others: 5")
    assert refusal(file, text, name="others").startswith(f"{file}:{line_of(text, 'others')}: ")


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is refused by its name."""
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(tmp_path / "none.yaml", "reviews")
    assert str(tmp_path / "none.yaml") in str(caught.value)


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    """A folder is refused by its name."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "reviews")
    assert str(tmp_path) in str(caught.value)


def test_not_utf8(file: Path) -> None:
    """A file in another encoding is refused with the place of the first bad byte."""
    file.write_bytes(b"# caf\xe9\n" + TEXT.encode())
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 5\)"):
        load(file, "reviews")


# --set


def test_set(file: Path) -> None:
    """Values of any depth and type are overridden, over the file and over its defaults."""
    found = load(
        file,
        "reviews",
        [
            "training.epochs=2",
            "training.warmup=0.5",
            "seed=9",
            "description=plain words",
            "application.labels=[no, yes]",
            "sources.movies.path=a=b",
        ],
    )
    assert (found.training.epochs, found.training.warmup, found.seed) == (2, 0.5, 9)
    assert found.description == "plain words"
    assert found.application.labels == ("no", "yes")
    assert found.sources["movies"].path == "a=b"


def test_set_creates(file: Path) -> None:
    """What the file does not say can be set, with all that lies between; null empties it."""
    overrides = ["training.early_stopping.patience=4", "sources.books.path=b", "pretraining={}"]
    found = load(file, "reviews", [*overrides, "source_training=null"])
    assert found.training.early_stopping is not None
    assert found.training.early_stopping.patience == 4
    assert found.training.epochs == 3
    assert list(found.sources) == ["movies", "books"]
    assert found.pretraining is not None
    assert found.source_training is None


def test_the_last_set_wins(file: Path) -> None:
    """The same place set twice has the later value."""
    assert load(file, "reviews", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.epochs=many", ["--set training.epochs", '"many"', "integer"]),
        ("training.epochs='2'", ["--set training.epochs", '"2"', "integer"]),
        ("training.epochs=0", ["--set training.epochs", "is 0", "greater than 0"]),
        ("training.epoks=2", ["--set training.epoks", "unknown key", "epochs"]),
        ("trainin.epochs=2", ["--set trainin", "unknown key 'trainin'", "training"]),
        ("training.epochs.x=2", ["--set training.epochs", '{"x": 2}', "integer"]),
        ("paradigm.kind=fine", ["--set paradigm.kind", '"fine"', "'fine_tuning'"]),
        ("paradigm.lora.rnk=2", ["--set paradigm.lora.rnk", "unknown key", "rank"]),
        ("training.epochs=", ["--set training.epochs", "null", "integer"]),
        ("training.epochs=[2", ["--set training.epochs=[2", "YAML"]),
        ("training.epochs", ["--set training.epochs", "PATH=VALUE"]),
        ("=2", ["--set =2", "PATH=VALUE"]),
        ("target.others.path=x", ["--set target", "at most 1"]),
        ("evaluation.metric=bleu", ["--set evaluation.metric", "'bleu'", "macro_f1, accuracy"]),
        ("sources.products.path=x", ["--set", "'products'", "also a source"]),
        ("sources.movies.path=${GRAFT_TEST_UNSET}", ["--set", "GRAFT_TEST_UNSET", "not set"]),
    ],
)
def test_bad_set(file: Path, override: str, says: list[str]) -> None:
    """A bad override is refused like a bad line, and it is --set that is named."""
    message = refusal(file, TEXT, override)
    assert message.startswith("--set ")
    for part in says:
        assert part in message


def test_set_is_not_blamed_for_the_file(file: Path) -> None:
    """An error in the file is the file's, whatever else is set."""
    text = edited("epochs: 3", "epochs: 0")
    message = refusal(file, text, "training.warmup=0.3", "seed=4")
    assert message.startswith(f"{file}:{line_of(text, 'epochs: 0')}: ")


# What is read


def test_yaml_1_2(file: Path) -> None:
    """`labels: [no, yes]` are the words, not truth values."""
    file.write_text(edited("[negative, positive]", "[no, yes]"))
    assert load(file, "reviews").application.labels == ("no", "yes")


def test_numbers(file: Path) -> None:
    """5e-5 is a number, and a whole number may stand for a fractional one."""
    file.write_text(edited("epochs: 3", "learning_rate: 5e-5\n      clip_norm: 2"))
    training = load(file, "reviews").training
    assert (training.learning_rate, training.clip_norm) == (5e-5, 2.0)


def test_defaults_are_merged_under(file: Path) -> None:
    """A pipeline's own values win; beside them the defaults' stay, mapping by mapping."""
    file.write_text(edited("warmup: 0.2", "warmup: 0.2\n    epochs: 9"))
    found = load(file, "reviews")
    assert (found.seed, found.training.warmup, found.training.epochs) == (7, 0.2, 3)


def test_merge() -> None:
    """Mappings merge, everything else is replaced, and neither side is changed."""
    under, over = {"a": {"x": 1, "y": [1, 2]}, "b": {"z": 1}}, {"a": {"y": [3]}, "b": None}
    kept = json.dumps([under, over])
    assert merge(under, over) == {"a": {"x": 1, "y": [3]}, "b": None}
    assert json.dumps([under, over]) == kept


def test_variables(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """${NAME} becomes the environment's value, anywhere in a text."""
    monkeypatch.setenv("GRAFT_TEST_DATA", "/data")
    file.write_text(edited("data/movies", "${GRAFT_TEST_DATA}/a-${GRAFT_TEST_DATA}"))
    assert load(file, "reviews").sources["movies"].path == "/data/a-/data"


def test_names(file: Path) -> None:
    """Pipelines are listed in the order of the file."""
    assert names(file) == ["reviews", "others"]


def test_recorded_configuration(file: Path) -> None:
    """A configuration that was recorded as JSON is read back; an unknown key is refused."""
    pipeline = load(file, "reviews")
    recorded = pipeline.model_dump(mode="json")
    assert resolve(json.dumps(recorded)) == pipeline
    recorded["training"]["epoks"] = 3
    with pytest.raises(ConfigError, match=r"recorded configuration: unknown key 'training\.epoks'"):
        resolve(json.dumps(recorded))


def test_frozen(file: Path) -> None:
    """A configuration cannot be changed after it was checked."""
    with pytest.raises(ValueError, match="frozen"):
        load(file, "reviews").seed = 5


# The schema


def classes(model: type[BaseModel], seen: set[type]) -> Iterator[type[BaseModel]]:
    """Every configuration class that a value of this one can hold."""
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        pending: list[Any] = [field.annotation]
        while pending:
            kind = pending.pop()
            pending += typing.get_args(kind)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from classes(kind, seen)


CLASSES = {found.__name__: found for found in classes(Pipelines, set())}


def test_the_walk_finds_the_classes() -> None:
    """Applications and paradigms are reached, and what they hold."""
    assert {"Pipeline", "TextClassification", "FineTuning", "Lora", "Range"} <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_documented(name: str) -> None:
    """Every class and every field says in the schema what it is."""
    written = CLASSES[name].model_json_schema()
    assert written["description"].strip()
    missing = [k for k, v in written["properties"].items() if not v.get("description", "").strip()]
    assert missing == []


@pytest.mark.parametrize("name", CLASSES)
def test_strict(name: str) -> None:
    """Every class is frozen and refuses unknown keys."""
    config = CLASSES[name].model_config
    assert (config.get("frozen"), config.get("extra")) == (True, "forbid")


def test_schema_is_current() -> None:
    """pipelines.schema.json is what `make schema` would write."""
    assert (ROOT / "pipelines.schema.json").read_text(encoding="utf-8") == schema()


def validator() -> jsonschema.Draft202012Validator:
    document = json.loads(schema())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def plain(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_shipped_file() -> None:
    """The pipelines.yaml that is shipped is accepted by the schema and by Graft."""
    path = ROOT / "pipelines.yaml"
    assert list(validator().iter_errors(plain(path.read_text(encoding="utf-8")))) == []
    assert names(path)
    for name in names(path):
        assert isinstance(load(path, name), Pipeline)


def test_schema_accepts_defaults_and_short_pipelines() -> None:
    """`defaults` may hold any part, so neither it nor a pipeline need be complete."""
    assert list(validator().iter_errors(plain(TEXT))) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs: 3", "epoks: 3"),
        ("epochs: 3", "epochs: three"),
        ("epochs: 3", "epochs: 0"),
        ("kind: fine_tuning", "kind: fine_toning"),
        ("warmup: 0.2", "warmup: 2"),
        ("  seed: 7", "  sed: 7"),
    ],
)
def test_schema_refuses(old: str, new: str) -> None:
    """What Graft refuses an editor underlines."""
    assert list(validator().iter_errors(plain(edited(old, new))))
