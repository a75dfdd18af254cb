"""Masking: what is personal goes, what is a product's number stays.

`python tests/items/test_redact.py` writes the table in docs/privacy.md anew.
"""

from __future__ import annotations

import random
import re
import socket
from collections import Counter
from importlib import util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcat.errors import BadConfig
from llmcat.items import redact as module
from llmcat.items import redact_patterns
from llmcat.items.redact import ALL, Redactor, parse, redact
from llmcat.items.redact_patterns import PATTERNS
from llmcat.records import Item

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "privacy.md"


def masked(text: str) -> tuple[str, dict[str, int]]:
    counts: Counter[str] = Counter()
    return redact(text, counts=counts), dict(counts)


def table() -> str:
    """The table of docs/privacy.md, from the patterns."""
    rows = ["| kind | becomes | what is masked | where |", "|---|---|---|---|"]
    rows += [f"| `{p.kind}` | `[{p.kind.upper()}]` | {p.what} | {p.rule} |" for p in PATTERNS]
    rows += ["| `names` | `[NAME]` | people's names | as Presidio finds them, see below |"]
    return "\n".join(rows)


def with_table(text: str) -> str:
    before, rest = text.split("<!-- redact -->", 1)
    _, after = rest.split("<!-- end -->", 1)
    return f"{before}<!-- redact -->\n{table()}\n<!-- end -->{after}"


POSITIVE = [
    # addresses with a login
    ("git clone https://jane:s3cret@git.example.com/x", "git clone https://[LOGIN]@git.example.com/x"),
    ("https://jane:p@ss@example.com/", "https://[LOGIN]@example.com/"),
    ("ftp://anonymous@ftp.example.org", "ftp://[LOGIN]@ftp.example.org"),
    ("https://a.example/x?id=5&access_token=abc-123&y=1", "https://a.example/x?id=5&access_token=[LOGIN]&y=1"),
    ("GET /v1?API_KEY=k123", "GET /v1?API_KEY=[LOGIN]"),
    # email
    ("write to jane.doe+shop@mail.example.co.uk.", "write to [EMAIL]."),
    ("邮箱jane_doe@example.com谢谢", "邮箱[EMAIL]谢谢"),
    ("<jane@example.com>, <joe@example.org>", "<[EMAIL]>, <[EMAIL]>"),
    ("josé@example.fr o'doe@example.com", "[EMAIL] [EMAIL]"),
    ("ｊａｎｅ＠ｅｘａｍｐｌｅ．ｃｏｍ", "[EMAIL]"),
    ("jane＠example.com", "[EMAIL]"),
    ("jane@example.xn--p1ai", "[EMAIL]"),
    # bank accounts
    ("IBAN GB82 WEST 1234 5698 7654 32 please", "IBAN [IBAN] please"),
    ("GB82WEST12345698765432", "[IBAN]"),
    ("to DE89 3704 0044 0532 0130 00, today", "to [IBAN], today"),
    ("fr14 2004 1010 0505 0001 3m02 606", "[IBAN]"),
    ("退款到NO9386011117947。", "退款到[IBAN]。"),
    # ids
    ("身份证11010519491231002X", "身份证[ID]"),
    ("身份证号：１１０１０５１９４９１２３１００２x 已核", "身份证号：[ID] 已核"),
    ("id 110105 19491231 002X ok", "id [ID] ok"),
    ("my ssn is 078-05-1120", "my ssn is [ID]"),
    ("SSN: 078 05 1120", "SSN: [ID]"),
    ("social security number 078051120", "social security number [ID]"),
    # cards
    ("paid with 4111 1111 1111 1111 exp 12/27", "paid with [CARD] exp 12/27"),
    ("4111-1111-1111-1111", "[CARD]"),
    ("card 4111 1111 1111 1111 123", "card [CARD] 123"),
    ("2 x 4111111111111111", "2 x [CARD]"),
    ("1234 4111 1111 1111 1111", "1234 [CARD]"),
    ("卡号5555555555554444已扣款", "卡号[CARD]已扣款"),
    ("2223 0031 2200 3222", "[CARD]"),
    ("amex 3782 822463 10005", "amex [CARD]"),
    ("diners 3056 930902 5904 / 30569309025904", "diners [CARD] / [CARD]"),
    ("discover 6011111111111117, jcb 3530111333300000", "discover [CARD], jcb [CARD]"),
    ("old visa 4222222222222", "old visa [CARD]"),
    ("银联 6212 3456 7890 1232", "银联 [CARD]"),
    ("4111–1111–1111–1111", "[CARD]"),
    # IP addresses
    ("from 203.0.113.7.", "from [IP]."),
    ("地址203.0.113.7:8080", "地址[IP]:8080"),
    ("10.0.0.1-10.0.0.9 /24", "[IP]-[IP] /24"),
    ("host 2001:db8::8a2e:370:7334 down", "host [IP] down"),
    ("[2001:0db8:0000:0000:0000:ff00:0042:8329]:443", "[[IP]]:443"),
    ("fe80::1%eth0", "[IP]%eth0"),
    # telephones
    ("+1 212 555 0123", "[PHONE]"),
    ("+49 (0)30 123456, please", "[PHONE], please"),
    ("call +44 20 7946 0958 now", "call [PHONE] now"),
    ("＋８６　１３８　１２３４　５６７８", "[PHONE]"),
    ("联系13812345678张先生", "联系[PHONE]张先生"),
    ("手机号-138 1234 5678", "手机号-[PHONE]"),
    ("13812345678/13912345678", "[PHONE]/[PHONE]"),
    ("+8613812345678 0086 13812345678 86-13812345678", "[PHONE] [PHONE] [PHONE]"),
    ("电话010-12345678", "电话[PHONE]"),
    ("电话010-82345678-801", "电话[PHONE]"),
    ("（0571）87654321", "[PHONE]"),
    ("(212) 555-0123 or 212-555-0123 or 212.555.0123", "[PHONE] or [PHONE] or [PHONE]"),
    ("1-800-555-0199", "[PHONE]"),
    ("020 7946 0958", "[PHONE]"),
    ("07700 900123", "[PHONE]"),
    ("01 99 00 12 34", "[PHONE]"),
    ("030/1234567", "[PHONE]"),
    ("090-1234-5678", "[PHONE]"),
    ("Tel. 212 555 0123", "Tel. [PHONE]"),
    ("call me at 5550123", "call me at [PHONE]"),
    ("phone number: 0044 20 7946 0958", "phone number: [PHONE]"),
    ("致电 400 820 8820", "致电 [PHONE]"),
    ("电话：82345678", "电话：[PHONE]"),
    # side by side
    ("jane@example.com13812345678", "[EMAIL][PHONE]"),
    ("jane@example.com, 4111111111111111, 203.0.113.7", "[EMAIL], [CARD], [IP]"),
]  # fmt: skip

NEGATIVE = [
    "red running shoes, size 42 2/3, 2024-05-06",
    "EAN 4006381333931 ballpoint pen 0.5 mm",
    "4006381333931",
    "5012345678900 tea 80 bags",
    "6901234567892 儿童牙膏",
    "GTIN 00012345600012 / 10012345678902",
    "30614141000418 outer carton",
    "036000291452 tissues",
    "Monitor 27 inch 1920x1080 144 Hz 1 ms",
    "bracket 00353-12-998 for Pixon 9 / 9a",
    "QT_910-SET 4x AA 2800mAh 1.2 V",
    "£1,299.00 was £1,499.00 save 13%",
    "$12345678.90",
    "Bosch 0 986 494 123 brake pads 0986 494 123",
    "iPhone 12 13 14 15 16 case",
    "phone 12 13 14 15 Pro Max case 2023 2024",
    "手机 13 14 15 16 通用 2024 新款",
    "华为手机壳 Mate 60 Pro 6.82英寸 2700x1224",
    "Tel Aviv poster 1920 x 1080",
    "Telescope 70060 700mm f/10",
    "printer for fax 2840 2845 2940",
    "firmware 1.2.3.4 update",
    "tool v10.2.0.1",
    "版本 2.4.1.16 路由器",
    "llama-1.2.3.4.tar.gz",
    "protection IP67 IP65 IPX7",
    "std::vector<int> and ace::fade",
    "open 12:30:45, MAC 00:1A:2B:3C:4D:5E",
    "icon@2x.png and logo@3x.png",
    "2 for 1 @ £5.99",
    "follow @janedoe",
    "https://example.com/@jane/13",
    "IMEI 490154203237518",
    "4111111111111112 (Luhn is wrong)",
    "1234567890123452 (Luhn is right, no issuer)",
    "GB83 WEST 1234 5698 7654 32",
    "XX82 WEST 1234 5698 7654 32",
    "110105194912310021",
    "110105194913310025 no such month",
    "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000",
    "part no. 123-45-6789",
    "SKU 13812345678",
    "SKU-13812345678-B",
    "快递单号：13812345678",
    "型号18650锂电池3.7V 2600mAh",
    "order no 212-555-0123",
    "2138123456789 12345678901 10812345678",
    "0.13812345678",
    "CAS 7732-18-5, ISBN 978-0-306-40615-7",
    "tracking 9400110200881234567890",
    "-20 to +60 °C, +0.05/-0.02 mm",
    "at 37.7749, -122.4194",
    "shoe sizes 36 37 38 39 40 41 42 43",
    "T恤 男 纯棉 170/92A 180/100A 2件装",
    "儿童牙膏含氟防蛀3-12岁 水果味 60g 两支装",
    "20240506123045 backup",
    "call 2024-05-06 12:00",
    "12 34 56 78 90",
    "1 000 000 pcs, 10 000 000 in all",
    "M3x10 M4x20 500/1000/2000 pcs",
    "256/512/1024GB SSD",
    "LEGO 75192 7541 pieces",
    "[EMAIL] and [PHONE] and [NAME]",
    "",
]


@pytest.mark.parametrize(("text", "result"), POSITIVE)
def test_what_is_personal_is_masked(text: str, result: str) -> None:
    """Each span becomes its token, is counted under its kind, and the rest stays as it was."""
    assert masked(text)[0] == result
    tokens = Counter(re.findall(r"\[([A-Z]+)\]", result))
    assert masked(text)[1] == {kind.lower(): n for kind, n in tokens.items()}


@pytest.mark.parametrize("text", NEGATIVE)
def test_a_products_numbers_stay(text: str) -> None:
    """Bar codes, part numbers, sizes, prices, dates and versions are nobody's: the same object."""
    counts: Counter[str] = Counter()
    assert redact(text, counts=counts) is text
    assert not counts


def test_most_bar_codes_stay() -> None:
    """No valid GTIN-13 or GTIN-14 is taken for a card, wherever it begins."""
    chance = random.Random(0)
    for _ in range(2000):
        body = str(chance.randrange(10**11, 10**13))
        digits = next(f"{body}{d}" for d in range(10) if redact_patterns._gtin(f"{body}{d}"))
        assert masked(f"item {digits} blue")[1] == {}


def test_check_digits() -> None:
    """The published examples pass, and every single wrong digit is found."""
    for check, good in [
        (redact_patterns._luhn, "79927398713"),
        (redact_patterns._luhn, "4111111111111111"),
        (redact_patterns._gtin, "4006381333931"),
        (redact_patterns._gtin, "036000291452"),
        (redact_patterns._mod_11_2, "11010519491231002X"),
        (redact_patterns._mod_97, "GB82WEST12345698765432"),
        (redact_patterns._mod_97, "DE89370400440532013000"),
        (redact_patterns._mod_97, "MT84MALT011000012345MTLCAST001S"),
    ]:
        assert check(good)
        for i, old in enumerate(good):
            if old.isdigit():
                wrong = [f"{good[:i]}{d}{good[i + 1 :]}" for d in "0123456789" if d != old]
                assert not any(check(w) for w in wrong), (good, i)


def test_only_the_kinds_asked_for() -> None:
    """A kind that is not asked for stays, and does not appear in the counts."""
    counts: Counter[str] = Counter()
    text = "jane@example.com 13812345678"
    assert redact(text, counts=counts, kinds=["phone"]) == "jane@example.com [PHONE]"
    assert counts == {"phone": 1}


PIECES = [
    "jane@example.com", "https://a:b@", "?token=", "4111 1111 1111 1111", "4111111111111111",
    "GB82 WEST 1234 5698 7654 32", "11010519491231002X", "078-05-1120", "203.0.113.7",
    "2001:db8::1", "+49 30 123456", "13812345678", "(0571)87654321", "212-555-0123", "tel ", "SKU ",
    "@", "＠", "+", "-", " ", ".", "/", ":", "(", ")", "[", "]", "[EMAIL]", "[ID]", "x", "中", "１",
    "8", "12", "0", "555", "1234",
]  # fmt: skip


@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=14).map("".join)))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    """Masked text holds nothing to mask: it comes back as the same object."""
    once, counts = masked(text)
    again: Counter[str] = Counter()
    assert redact(once, counts=again) is once
    assert not again
    assert (once is text) == (not counts)


@pytest.mark.parametrize(
    "unit",
    ["a", "1", "1 ", "a.", "a@", "@", "1.", "1:", "a:", "://", "://a:", "+1", "+1 ", "4111 ",
     "GB82 ", "GB82", "(", "0(", "tel ", "tel 1", "?token=", "138", "13812345678", "13812345678 ",
     "010-", "[", "[EMAIL]", "1/", "１", "a-", "\u00e9", "jane@a.b.", "no ", " ",
     "SKU 13812345678 "],
)  # fmt: skip
def test_long_hostile_text(unit: str) -> None:
    """200,000 characters made to go wrong come to an end: patterns are bounded."""
    text = unit * (200_000 // len(unit))
    once, _ = masked(text)
    assert masked(once)[0] == once


def item(**fields: str) -> Item:
    return Item(row=3, id="a", fields=fields, kept={"agent": "joe@example.org"}, gold="x")


def test_an_item() -> None:
    """Fields and kept columns are masked; row, id and label are the item's identity."""
    redactor = Redactor()
    done = redactor(item(title="late parcel", text="I am jane@example.com, 13812345678"))
    assert done.fields == {"title": "late parcel", "text": "I am [EMAIL], [PHONE]"}
    assert done.kept == {"agent": "[EMAIL]"}
    assert (done.row, done.id, done.gold) == (3, "a", "x")
    assert redactor.counts == {"email": 2, "phone": 1}
    assert redactor(done) is done


def test_the_reason_of_a_bad_item() -> None:
    """A reason may quote the row; it is written to the output, so it is masked too."""
    bad = Item(row=0, id="row-0", fields={}, error="not a label: jane@example.com")
    assert Redactor()(bad).error == "not a label: [EMAIL]"


def test_the_setting() -> None:
    """Nothing for nothing; `all`; kinds, in any case and order, once each."""
    assert parse("") is None
    assert parse(" , ") is None
    for setting, kinds in [
        ("all", ALL),
        ("email,phone,card", ("email", "phone", "card")),
        (" Phone , EMAIL,phone", ("phone", "email")),
        ("card,all", ("card", *(kind for kind in ALL if kind != "card"))),
    ]:
        redactor = parse(setting)
        assert redactor is not None
        assert (redactor.kinds, redactor.names) == (kinds, False)


def test_an_unknown_kind() -> None:
    """The error names the word and lists what there is."""
    with pytest.raises(BadConfig, match="'fax'") as caught:
        parse("email,fax")
    assert caught.value.hint == f"known: all, {', '.join(ALL)}, names"


def test_the_kinds_are_those_of_the_module_text() -> None:
    """The table in the docstring has every kind, in order, and the names last."""
    rows = re.findall(r"^\| `(\w+)` *\|", module.__doc__ or "", re.MULTILINE)
    assert rows == [*ALL, "name"]


def test_the_table_of_the_page_is_made_of_the_patterns() -> None:
    """docs/privacy.md says what the code does."""
    text = PAGE.read_text("utf-8")
    assert text == with_table(text)


# Names: a real Presidio over a real spaCy pipeline, whose only rule is a list of names.

presidio = pytest.mark.skipif(
    util.find_spec("presidio_analyzer") is None, reason="presidio-analyzer is not installed"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    apart = [{"LOWER": "john"}, {"IS_SPACE": True}, {"LOWER": "doe"}]
    nlp.add_pipe("entity_ruler").add_patterns(
        [
            {"label": "PERSON", "pattern": "Jane Doe"},
            {"label": "PERSON", "pattern": apart},
            {"label": "PER", "pattern": "Erika Mustermann"},
            {"label": "PRODUCT", "pattern": "Pixon"},
            {"label": "ORG", "pattern": "Acme"},
        ]
    )
    folder = tmp_path_factory.mktemp("model") / "names"
    nlp.to_disk(folder)
    return str(folder)


@presidio
def test_names(
    model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """People are masked beside the patterns; products and companies stay; nothing is logged."""
    monkeypatch.setenv("LLMCAT_PRESIDIO_MODEL", model)
    redactor = parse("all,names")
    assert redactor is not None
    done = redactor(item(text="Jane Doe <jane@example.com> of Acme, for Erika Mustermann's Pixon"))
    assert done.fields["text"] == "[NAME] <[EMAIL]> of Acme, for [NAME]'s Pixon"
    assert redactor.counts == {"email": 2, "name": 2}
    assert redactor(done) is done
    assert not caplog.records


@presidio
def test_a_name_across_a_token(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model does not see tokens; a name around one is masked on both sides of it."""
    monkeypatch.setenv("LLMCAT_PRESIDIO_MODEL", model)
    assert Redactor(names=True).text("John j@example.com Doe") == "[NAME] [EMAIL] [NAME]"


@presidio
def test_names_alone(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`names` without kinds leaves numbers and addresses; a text without names is the same."""
    monkeypatch.setenv("LLMCAT_PRESIDIO_MODEL", model)
    redactor = parse("names")
    assert redactor is not None
    assert redactor.text("Jane Doe jane@example.com") == "[NAME] jane@example.com"
    for text in ("jane@example.com", "", "  "):
        assert redactor.text(text) is text


@presidio
def test_names_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says which command installs one, or which variable names one; nothing is downloaded."""
    pytest.importorskip("spacy")

    def refuse(*_: object) -> None:
        pytest.fail("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("LLMCAT_PRESIDIO_MODEL", "no_such_model")
    with pytest.raises(BadConfig, match="'no_such_model'") as caught:
        parse("names")
    assert "python -m spacy download" in caught.value.hint
    assert "LLMCAT_PRESIDIO_MODEL" in caught.value.hint


@presidio
def test_names_with_a_folder_that_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What spaCy says is passed on as ours."""
    monkeypatch.setenv("LLMCAT_PRESIDIO_MODEL", str(tmp_path))
    with pytest.raises(BadConfig, match="spaCy cannot load"):
        Redactor(names=True)


def test_names_without_presidio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says which extra installs it."""
    monkeypatch.setattr(module.util, "find_spec", lambda _: None)
    monkeypatch.setenv("LLMCAT_PRESIDIO_MODEL", "not_asked_for_before")
    with pytest.raises(BadConfig, match="Presidio") as caught:
        Redactor(names=True)
    assert caught.value.hint == 'pip install "llmcat[presidio]"'


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
    print(f"wrote {PAGE}")  # noqa: T201
