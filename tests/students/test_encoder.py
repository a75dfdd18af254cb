"""Students that are encoders: a tiny BERT trained from random weights, and served by vLLM."""

from __future__ import annotations

import json
import random
import urllib.request
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import serve
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from llmcat.errors import BadConfig, InputError
from llmcat.students.encoder import EncoderStudent, _held_out, weighted_loss

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

KINDS = {
    "bags": "tote backpack handbag clutch satchel strap purse 背包 手提包".split(),
    "shoes": "sneaker boot sandal heel loafer trainer slipper 运动鞋 凉鞋".split(),
    "toys": "puzzle doll robot kite blocks teddy train 积木 玩具熊".split(),
}
FILLER = "red blue new large small for kids women men sale pack soft 新款 包邮".split()
SETTINGS: dict[str, Any] = {"learning_rate": 2e-3, "epochs": 8}


def shop(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Titles of one telling word among three that tell nothing."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(n):
        label = rng.choice(list(KINDS))
        words = [rng.choice(KINDS[label]), *rng.sample(FILLER, 3)]
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


TRAIN, TEST = shop(240, 1), shop(90, 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the config of a small BERT and a WordPiece tokenizer, but no weights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = sorted(
        {w for text in TRAIN[0] for w in text.split()} | set("背包手提运动鞋凉积木玩具熊新款邮")
    )
    vocabulary = [*special, *pieces, *(f"##{p}" for p in pieces)]
    numbers = {w: i for i, w in enumerate(vocabulary)}
    words = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))  # noqa: S106
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tiny")
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    ).save_pretrained(folder)
    BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=64,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def student(tiny: str) -> EncoderStudent:
    return EncoderStudent(tiny, **SETTINGS).fit(*TRAIN)


# -- training ----------------------------------------------------------------------------------


def test_it_learns(student: EncoderStudent, capfd: pytest.CaptureFixture[str]) -> None:
    """Far above chance; rows sum to 1; one column per class; order and batch do not matter."""
    assert student.score(*TEST) > 0.9
    p = student.predict_proba(TEST[0])
    assert p.shape == (90, 3)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert student.classes_.tolist() == ["bags", "shoes", "toys"]
    np.testing.assert_allclose(student.predict_proba(TEST[0][::-1])[::-1], p, atol=1e-5)
    assert student.predict_proba([]).shape == (0, 3)
    assert student.predict_proba(["", "sneaker " * 500]).shape == (2, 3)


def test_it_says_nothing_and_leaves_nothing(
    tiny: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bars, no log, no checkpoint, and the caller's random numbers go on as they would."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    expected = random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    EncoderStudent(tiny, epochs=2).fit(TRAIN[0][:40], TRAIN[1][:40])
    assert (random.random(), np.random.random(), float(torch.rand(()))) == expected  # noqa: NPY002
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_student(tiny: str) -> None:
    """To the last bit; another seed gives another student."""
    data = TRAIN[0][:60], TRAIN[1][:60]
    one, two, other = (
        EncoderStudent(tiny, epochs=2, seed=seed).fit(*data).predict_proba(TEST[0])
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


def test_training_ends_early(tiny: str) -> None:
    """Labels that mean nothing: the loss stops falling, training stops, the best epoch is kept."""
    rng = random.Random(0)
    labels = [rng.choice("ab") for _ in TRAIN[0]]
    made = EncoderStudent(tiny, learning_rate=3e-3, epochs=40, patience=2, validation=0.3)
    made.fit(TRAIN[0], labels)
    assert made.epochs_ < 40
    assert made.epochs_ == len(made.losses_) == int(np.argmin(made.losses_)) + 1 + 2
    out = _held_out(np.unique(labels, return_inverse=True)[1], 0.3, 0)
    texts = [text for text, held in zip(TRAIN[0], out, strict=True) if held]
    gold = np.array([label == "b" for label, held in zip(labels, out, strict=True) if held], int)
    sizes = np.bincount([label == "b" for label in labels])
    weights = (len(labels) / 2 / sizes)[gold]
    losses = -np.log(made.predict_proba(texts)[np.arange(len(gold)), gold])
    assert (weights * losses).mean() == pytest.approx(min(made.losses_), rel=1e-4)


def test_no_validation(tiny: str) -> None:
    """Without a share for validation every epoch is run."""
    made = EncoderStudent(tiny, epochs=3, validation=0).fit(TRAIN[0][:30], TRAIN[1][:30])
    assert (made.epochs_, made.losses_) == (3, [])


def test_what_is_held_out() -> None:
    """Every class in proportion; never the only row of a class."""
    index = np.repeat([0, 1, 2, 3], [100, 50, 10, 1])
    for seed in range(20):
        out = _held_out(index, 0.1, seed)
        taken = np.bincount(index[out], minlength=4)
        assert np.all(np.abs(taken - [10, 5, 1, 0]) <= 1)
        assert taken[3] == 0
        assert not _held_out(index, 0, seed).any()
        assert all((~_held_out(np.arange(9) // 2, 0.5, seed)).reshape(-1)[i : i + 2].any()
                   for i in range(0, 8, 2))  # fmt: skip


# -- weights -----------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_by_weight() -> None:
    """As torch's own with one weight per class, scaled by the mean weight."""
    rng = torch.Generator().manual_seed(0)
    logits, gold = torch.randn(8, 3, generator=rng), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    each = torch.tensor([0.5, 2.0, 1.0])
    labels = torch.nn.functional.one_hot(gold, 3) * each[gold][:, None]

    class Outputs:
        pass

    outputs = Outputs()
    outputs.logits = logits  # type: ignore[attr-defined]
    expected = torch.nn.functional.cross_entropy(logits, gold, weight=each, reduction="sum") / 8
    torch.testing.assert_close(weighted_loss(outputs, labels), expected)


def test_an_item_of_weight_0_does_not_matter(tiny: str) -> None:
    """With it or without it, the same student."""
    texts, labels = TRAIN[0][:60], TRAIN[1][:60]
    made = EncoderStudent(tiny, epochs=2)
    plain = made.fit(texts, labels).predict_proba(TEST[0])
    more = [*texts[:30], "tote", *texts[30:]], [*labels[:30], "toys", *labels[30:]]
    made.fit(*more, sample_weight=[1] * 30 + [0] + [1] * 30)
    np.testing.assert_array_equal(made.predict_proba(TEST[0]), plain)
    doubled = made.fit(texts, labels, sample_weight=np.full(60, 2.0)).predict_proba(TEST[0])
    np.testing.assert_allclose(doubled, plain, atol=1e-6)


def test_heavier_items_are_believed(tiny: str) -> None:
    """Of two labels for the same texts the heavier one wins; `balanced` lifts a rare class."""
    texts = [text for text, label in zip(*TRAIN, strict=True) if label == "bags"] * 2
    half = len(texts) // 2
    labels = ["a"] * half + ["b"] * half
    for heavy in "ab":
        weight = [9.0 if label == heavy else 1.0 for label in labels]
        made = EncoderStudent(tiny, epochs=3, learning_rate=1e-3, class_weight=None)
        p = made.fit(texts, labels, sample_weight=weight).predict_proba(texts)
        assert p["ab".index(heavy) == np.arange(2)[None, :].repeat(len(p), 0)].mean() > 0.75
    few = texts[: half + 8]
    labels = ["a"] * half + ["b"] * 8
    shares = [
        EncoderStudent(tiny, epochs=3, learning_rate=1e-3, class_weight=how)
        .fit(few, labels).predict_proba(few)[:, 1].mean()
        for how in ("balanced", None)
    ]  # fmt: skip
    assert shares[0] > shares[1] + 0.1


# -- scikit-learn ------------------------------------------------------------------------------


def test_it_is_an_estimator(tiny: str) -> None:
    """clone, a grid over two values, and a vote with another seed, all on lists of strings."""
    data = TRAIN
    base = EncoderStudent(tiny, validation=0, **SETTINGS)
    assert clone(base).get_params() == base.get_params()
    search = GridSearchCV(base, {"epochs": [1, 8]}, cv=2, error_score="raise").fit(*data)
    assert search.best_params_ == {"epochs": 8}
    assert search.score(*TEST) > 0.9
    vote = VotingClassifier([("a", base), ("b", clone(base).set_params(seed=1))], voting="soft")
    assert vote.fit(*data).score(*TEST) > 0.9
    with pytest.raises(NotFittedError):
        base.predict(["x"])


def test_dropout_and_length_are_set(tiny: str) -> None:
    """Dropout in every layer; texts are read up to max_length, and no further than the model's."""
    made = EncoderStudent(tiny, epochs=1, dropout=0.25, max_length=6).fit(
        TRAIN[0][:9], TRAIN[1][:9]
    )
    config = made.model_.config
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.25
    assert config.classifier_dropout == 0.25
    p = made.predict_proba(["red blue new sale", "red blue new sale sneaker"])
    np.testing.assert_allclose(p[0], p[1], atol=1e-6)
    assert EncoderStudent(tiny, epochs=1, max_length=4096).fit(
        TRAIN[0][:9], TRAIN[1][:9]
    ).tokenizer_.model_max_length == 64  # fmt: skip


# -- files -------------------------------------------------------------------------------------


def test_saved_and_loaded(student: EncoderStudent, tmp_path: Path) -> None:
    """The same probabilities; safetensors and JSON only; the labels are in the config."""
    student.save(tmp_path / "s")
    suffixes = {path.suffix for path in (tmp_path / "s").iterdir()}
    assert suffixes <= {".safetensors", ".json", ".txt"}
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["id2label"] == {"0": "bags", "1": "shoes", "2": "toys"}
    assert all(student.model not in f.read_text() for f in (tmp_path / "s").glob("*.json"))
    for params in (None, student.get_params()):
        again = EncoderStudent.load(tmp_path / "s", params)
        np.testing.assert_allclose(
            again.predict_proba(TEST[0]), student.predict_proba(TEST[0]), atol=1e-6
        )
        assert again.predict(TEST[0]).tolist() == student.predict(TEST[0]).tolist()
        assert again.classes_.tolist() == student.classes_.tolist()


def test_trained_further_from_a_folder_with_weights(
    student: EncoderStudent, tmp_path: Path
) -> None:
    """A folder with weights begins with them, also where the labels are others."""
    student.save(tmp_path / "s")
    labels = ["goods" if label == "toys" else "wear" for label in TRAIN[1]]
    made = EncoderStudent(str(tmp_path / "s"), epochs=2, learning_rate=1e-4).fit(TRAIN[0], labels)
    assert made.classes_.tolist() == ["goods", "wear"]
    assert made.score(TEST[0], ["goods" if label == "toys" else "wear" for label in TEST[1]]) > 0.9


# -- what is refused ---------------------------------------------------------------------------


def test_a_model_that_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, with a hint: a wrong folder, an empty one, a broken one, a name nobody can fetch."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "bert"}')
    for name in (str(tmp_path / "none"), str(tmp_path), str(tmp_path / "broken"), "no-such/model"):
        with pytest.raises(BadConfig, match=name) as caught:
            EncoderStudent(name).fit(["a", "b"], ["x", "y"])
        assert "give a folder" in caught.value.hint
    with pytest.raises(BadConfig, match="no trained encoder"):
        EncoderStudent.load(tmp_path / "broken")


def test_packages_that_are_missing(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, with the extra that has them."""
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda p: None if p == "accelerate" else real(p))
    with pytest.raises(BadConfig, match="accelerate") as caught:
        EncoderStudent(tiny).fit(["a", "b"], ["x", "y"])
    assert "llmcat[encoder]" in caught.value.hint


@pytest.mark.parametrize(
    ("texts", "y", "weight", "reason"),
    [
        (["a", "b"], ["x", "x"], None, "at least two categories"),
        ([], [], None, "at least two categories"),
        (["a", "b"], ["x", "y"], [1, 0], "at least two categories"),
        (["a", "b"], ["x", "y"], [1, -1], "at least 0"),
        (["a", "b"], ["x", "y"], [1, float("nan")], "at least 0"),
        (["a", "b"], ["x", "y"], [1], "weights of shape"),
        (["a"], ["x", "y"], None, "1 texts but 2 labels"),
    ],
)
def test_input_that_cannot_be_learnt(
    tiny: str, texts: list[str], y: list[str], weight: list[float] | None, reason: str
) -> None:
    """Refused with a reason, before a model is touched."""
    with pytest.raises(InputError, match=reason):
        EncoderStudent(tiny).fit(texts, y, sample_weight=weight)


@pytest.mark.parametrize(
    "setting",
    [{"epochs": 0}, {"validation": 0.9}, {"dropout": 1}, {"class_weight": "x"},
     {"learning_rate": 0}, {"batch_size": 0}],
)  # fmt: skip
def test_settings_out_of_range(tiny: str, setting: dict[str, Any]) -> None:
    """Refused by name."""
    with pytest.raises(BadConfig, match=next(iter(setting))):
        EncoderStudent(tiny, **setting).fit(["a", "b"], ["x", "y"])


def test_one_example_of_each(tiny: str) -> None:
    """Little, but no reason to fail."""
    made = EncoderStudent(tiny, epochs=1).fit(["tote", "boot"], ["bags", "shoes"])
    assert made.predict_proba(["tote"]).shape == (1, 2)


# -- served by vLLM ----------------------------------------------------------------------------


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310
        f"{url}/classify", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
        found: dict[str, Any] = json.load(reply)
    return found


@pytest.mark.server
def test_vllm_gives_the_same_probabilities(student: EncoderStudent, tmp_path: Path) -> None:
    """The saved folder, served as it is: our labels, our probabilities, texts cut where we do."""
    if util.find_spec("vllm") is None:
        pytest.fail("vLLM is not installed; `make test` installs it", pytrace=False)
    student.save(tmp_path / "s")
    texts = [*TEST[0][:40], "运动鞋 sneaker " * 100, "unknown"]
    folder, log = tmp_path / "s", tmp_path / "log"
    with serve(folder, log, name="student", profile="classify", room=0) as url:
        answer = ask(url, {"input": texts, "truncate_prompt_tokens": -1})
    rows = answer["data"]
    assert [row["index"] for row in rows] == list(range(len(texts)))
    p = np.array([row["probs"] for row in rows])
    np.testing.assert_allclose(p, student.predict_proba(texts), atol=1e-4)
    assert [row["label"] for row in rows] == student.predict(texts).tolist()


def test_the_profile_takes_flags_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What generates is left out; the device's own flags and the loopback stay."""
    from llmcat_serve import launch

    for gpus, own in ((0, "--enforce-eager"), (1, "--gpu-memory-utilization")):
        monkeypatch.setattr(launch, "_gpus", lambda gpus=gpus: gpus)
        _, command = launch.command_for("m", profile="classify")
        assert own in command
        assert command[command.index("--runner") + 1] == "pooling"
        assert command[command.index("--host") + 1] == "127.0.0.1"
        absent = {"structured-outputs-config", "enable-prefix-caching", "max-num-batched-tokens"}
        assert not {"False", *(f"--{flag}" for flag in absent)} & {*command}
