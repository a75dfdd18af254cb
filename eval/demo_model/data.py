"""What the demo model learns from: labelled texts, grouped into worlds, and menus drawn from them.

A world is a set of labels with texts for each: public sets (by path, `LLMCAT_DATA`) and items
made here by dressing up category names as shops do. Nothing that is measured on is in it: see
`Held`. Everything is drawn with one seeded generator.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Drawn", "Held", "Label", "World", "held_out_leaf", "menus", "pairs", "rows", "worlds"]

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent.parent / "examples"
UNSEEN_FOOD = ("Fast Foods", "Restaurant Foods", "American Indian/Alaska Native Foods")


def rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file, gzip or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def words(text: str) -> frozenset[str]:
    """The words of a text, and its Chinese characters."""
    return frozenset(re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower()))


class Held:
    """Texts that must not be trained on: those measured on, and what nearly repeats them."""

    def __init__(self, texts: list[str], *, alike: float = 0.8) -> None:
        self.alike = alike  # Jaccard similarity of the words
        self.sets = [words(t) for t in texts]
        self.index: defaultdict[str, list[int]] = defaultdict(list)
        for i, found in enumerate(self.sets):
            for word in found:
                self.index[word].append(i)

    def holds(self, text: str) -> bool:
        """Tell whether a text is one of them or nearly: Jaccard similarity of the words."""
        mine = words(text)
        shared: defaultdict[int, int] = defaultdict(int)
        for word in mine:
            for i in self.index.get(word, ()):
                shared[i] += 1
        return any(n >= self.alike * (len(mine) + len(self.sets[i]) - n) for i, n in shared.items())

    def contains(self, text: str) -> bool:
        """Tell whether three quarters of a short text's words, three or more, stand in one."""
        mine = words(text)
        if len(mine) < 3:
            return False
        shared: defaultdict[int, int] = defaultdict(int)
        for word in mine:
            for i in self.index.get(word, ()):
                shared[i] += 1
        return max(shared.values(), default=0) >= 0.75 * len(mine)


def held_out_leaf(label: str) -> bool:
    """Tell whether a NAICS leaf is of the tenth that no training sees."""
    leaf = label.rsplit(" > ", 1)[-1]
    return hashlib.sha1(leaf.encode()).digest()[0] % 10 == 0  # noqa: S324  a fixed split, no secret


@dataclass(frozen=True)
class Label:
    """A category: its path in English, and in Chinese where there is one."""

    path: tuple[str, ...]
    path_zh: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    nouns: tuple[tuple[str, str], ...] = ()  # names of what is below it (en, zh), to dress up


@dataclass(frozen=True)
class World:
    """Labels that may stand on one menu, and texts that belong to none of them.

    `near` groups labels that are hard to tell apart: siblings.
    """

    name: str
    labels: tuple[Label, ...]
    share: float
    apart: tuple[str, ...] = ()
    tree: Tree | Lexicon | None = None


@dataclass(frozen=True)
class Drawn:
    """A menu with its items: `answers[i]` is the index of the right label, or None (the exit)."""

    world: str
    labels: list[str]
    items: list[dict[str, str]]
    answers: list[int | None]
    zh: bool


@dataclass
class Tree:
    """A taxonomy of names alone; labels are cut out of it anew for every menu."""

    children: dict[str, list[str]]
    path: dict[str, tuple[str, ...]]
    path_zh: dict[str, tuple[str, ...]]
    parent: dict[str, str] = field(default_factory=dict)

    @cached_property
    def below(self) -> dict[str, list[str]]:
        """Every node's descendants, itself included."""
        out: dict[str, list[str]] = {}

        def walk(node: str) -> list[str]:
            found = [node]
            for child in self.children.get(node, ()):
                found += walk(child)
            out[node] = found
            return found

        for node in self.children[""]:
            walk(node)
        return out

    @cached_property
    def inner(self) -> list[str]:
        """Nodes with at least three children."""
        return [n for n, c in self.children.items() if n and len(c) >= 3]

    def cut(self, draw: random.Random, most: int) -> list[Label]:
        """Draw labels, none above another: siblings, a small shop, or anything."""
        kind = draw.random()
        chosen: list[str]
        if kind < 0.3:
            inner = draw.choice(self.inner)
            chosen = list(self.children[inner])
        elif kind < 0.75:
            tops = [t for t in self.children[""] if len(self.below[t]) > 30]
            chosen = []
            for top in draw.sample(tops, draw.randint(2, 8)):
                deep = [n for n in self.below[top] if 2 <= len(self.path[n]) <= 4]
                wide = [n for n in deep if self.children.get(n)]
                pick = wide if len(wide) > 3 and draw.random() < 0.8 else deep
                chosen += draw.sample(pick, min(len(pick), draw.randint(2, 7)))
        else:
            every = list(self.path)
            chosen = draw.sample(every, min(len(every), most * 2))
        draw.shuffle(chosen)
        kept: list[str] = []
        banned: set[str] = set()
        for node in chosen:
            if node in banned or len(kept) >= most or not self.path[node]:
                continue
            above, up = [], node
            while up:
                above.append(up)
                up = self.parent.get(up, "")
            if any(a in kept for a in above):
                continue
            kept.append(node)
            banned.update(self.below[node])
            banned.update(above)
        return [self.label(n) for n in kept]

    def label(self, node: str) -> Label:
        """Make a label of a node; its items are named after what is below it."""
        nouns = []
        for n in self.below[node]:
            zh = self.path_zh.get(n, ())
            nouns.append((self.path[n][-1], zh[-1] if zh else ""))
        return Label(self.path[node], self.path_zh.get(node, ()), nouns=tuple(nouns))


@dataclass(frozen=True)
class Shelf:
    """What stands on one shelf of our own lexicon: names and fragments of titles, in both tongues.

    `above` holds the names of its department and its group. `kept` fragments are not trained on:
    choices during development are made on them.
    """

    names: tuple[str, ...]
    names_zh: tuple[str, ...]
    texts: tuple[str, ...]
    texts_zh: tuple[str, ...]
    kept: tuple[str, ...]
    above: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


@dataclass(frozen=True)
class Lexicon:
    """Groups of shelves, written for this model; a label is a group or a shelf, by any name."""

    groups: tuple[tuple[Shelf, ...], ...]

    def cut(self, draw: random.Random, most: int) -> list[Label]:
        """Draw labels, none above another: groups, shelves of few groups, or both."""
        kind = draw.random()
        if kind < 0.55:
            chosen = [(g, True) for g in draw.sample(self.groups, min(most, len(self.groups)))]
        elif kind < 0.75:
            near = draw.sample(self.groups, min(len(self.groups), draw.randint(1, 6)))
            chosen = [((shelf,), False) for group in near for shelf in group]
        else:
            chosen = []
            for group in draw.sample(self.groups, min(most, len(self.groups))):
                if draw.random() < 0.4:
                    chosen.append((group, True))
                else:
                    some = draw.sample(group, draw.randint(1, min(3, len(group))))
                    chosen += [((shelf,), False) for shelf in some]
        draw.shuffle(chosen)
        departments = {g[0].above[0]: draw.randrange(6) for g in self.groups}
        return [
            self.label(draw, shelves, whole=whole, variant=departments[shelves[0].above[0]])
            for shelves, whole in chosen[:most]
        ]

    @staticmethod
    def label(
        draw: random.Random, shelves: tuple[Shelf, ...], *, whole: bool, variant: int
    ) -> Label:
        """Name a group (`whole`) or a shelf; a menu names a department in one way only."""
        shelf = shelves[0]
        department, group = shelf.above
        names, names_zh = group if whole else (shelf.names, shelf.names_zh)
        en = (department[0][variant % len(department[0])], draw.choice(names))
        zh = (department[1][variant % len(department[1])], draw.choice(names_zh))
        nouns = []
        for one in shelves:
            texts, texts_zh = [*one.texts, *one.names], [*one.texts_zh, *one.names_zh]
            for _ in range(max(2, 24 // len(shelves))):
                text, text_zh = draw.choice(texts), draw.choice(texts_zh)
                if draw.random() < 0.3:
                    text += draw.choice((" ", ", ")) + draw.choice(texts)
                    text_zh += draw.choice((" ", "")) + draw.choice(texts_zh)
                nouns.append((text, text_zh))
        return Label(en, zh, nouns=tuple(nouns))


@cache
def lexicon_files() -> list[dict[str, Any]]:
    """Read our own lexicon: fragments of titles, and whole titles (`more/`, by group and shelf)."""
    folder, found = HERE / "lexicon", []
    for path in sorted(folder.glob("*.yaml")):
        department = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)
        more = yaml.load((folder / "more" / path.name).read_text("utf-8"), yaml.CSafeLoader)
        for group in department["groups"]:
            for shelf in group["shelves"]:
                shelf["more"] = more[f"{group['names'][0]} > {shelf['names'][0]}"]
        found.append(department)
    return found


def parted(shelf: dict[str, Any], key: str) -> tuple[list[str], list[str]]:
    """Return a shelf's texts in one language: to train on, and a tenth kept for development."""
    texts = [*shelf[key], *shelf["more"][key]]
    return [t for i, t in enumerate(texts) if i % 10 != 9], texts[9::10]


def lexicon(held: Held) -> Lexicon:
    """Return our own lexicon, without what is measured on."""
    groups = []
    for found in lexicon_files():
        department = (tuple(found["department"]), tuple(found["department_zh"]))
        for group in found["groups"]:
            above = (department, (tuple(group["names"]), tuple(group["zh"])))
            groups.append(
                tuple(
                    Shelf(
                        names=tuple(map(str, shelf["names"])),
                        names_zh=tuple(map(str, shelf["zh"])),
                        texts=tuple(t for t in parted(shelf, "en")[0] if not held.contains(t)),
                        texts_zh=tuple(t for t in parted(shelf, "cn")[0] if not held.contains(t)),
                        kept=(*parted(shelf, "en")[1], *parted(shelf, "cn")[1]),
                        above=above,
                    )
                    for shelf in group["shelves"]
                )
            )
    return Lexicon(tuple(groups))


def measured(data: Path) -> tuple[list[str], set[str]]:
    """Return every title that is measured on, and the ids of those of shop32.

    shop32's train part too: choices during development were made on it, and on our pool.
    """
    examples = [r["title"] for r in rows(EXAMPLES / "items.jsonl")]
    examples += [r["title"] for r in rows(EXAMPLES / "pool.jsonl")]
    examples += [t for r in rows(EXAMPLES / "intents.jsonl") for t in r.values()]
    shop = rows(data / "shop32/test.jsonl") + rows(data / "shop32/train.jsonl")
    return [r["title"] for r in shop] + examples, {r["id"] for r in shop}


def worlds(data: Path) -> list[World]:
    """Read the public sets and our lexicon, and leave out whatever is measured on."""
    texts_held, ids = measured(data)
    held = Held(texts_held)
    shop = shop_labels(data, held, ids)
    naics: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for r in rows(data / "naics2022_index/items.jsonl.gz"):
        if r["split"] == "train" and not held_out_leaf(r["label"]) and not held.holds(r["title"]):
            naics[tuple(r["label"].split(" > "))].append(r["title"])
    intents: list[World] = []
    for name, file in (("banking77", "train.jsonl.gz"), ("clinc150", "train.jsonl.gz")):
        texts: defaultdict[str, list[str]] = defaultdict(list)
        for r in rows(data / name / file):
            if not held.holds(r["title"]):
                texts[r["label"].replace("_", " ")].append(r["title"])
        apart = tuple(texts.pop("oos", ()))
        labels = tuple(Label(tuple(k.split(" > ")), texts=tuple(v)) for k, v in texts.items())
        intents.append(World(name, labels, 0.035, apart))
    return [
        World("shop32", shop, 0.2),
        World("lexicon", (), 0.38, tree=lexicon(held)),
        World("naics", tuple(Label(k, texts=tuple(v)) for k, v in naics.items()), 0.14),
        World("shopify", (), 0.17, tree=shopify(data)),
        World("bestbuy", (), 0.04, tree=bestbuy(data)),
        *intents,
    ]


def shop_labels(data: Path, held: Held, ids: set[str]) -> tuple[Label, ...]:
    """The 32 labels of shop32 with every text of their pools that is not measured on."""
    pricerunner = rows(data / "pricerunner/items.jsonl.gz")
    groups = {r["group"] for r in pricerunner if r["id"] in ids}
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for r in pricerunner:
        if r["group"] not in groups:
            texts[r["label"]].append(r["title"])
    for r in rows(data / "usda_sr28_foods/items.jsonl.gz"):
        if r["id"] not in ids and r["label"] not in UNSEEN_FOOD:
            texts[r["label"]].append(r["title"])
    labels = []
    for r in rows(data / "shop32/categories.jsonl"):
        path = tuple(r["label"].split(" > "))
        kept = tuple(sorted({t for t in texts[path[-1]] if not held.holds(t)}))
        labels.append(Label(path, tuple(r["label_zh"].split(" > ")), kept))
    return tuple(labels)


def own_names() -> frozenset[str]:
    """The names of our example taxonomy, which no training menu shows."""
    found: set[str] = set()

    def walk(nodes: list[dict[str, Any]]) -> None:
        for node in nodes:
            found.update({node["name"].lower(), *node.get("names", {}).values()})
            walk(node.get("children", []))

    walk(yaml.safe_load((EXAMPLES / "taxonomy.yaml").read_text("utf-8"))["labels"])
    return frozenset(found)


def shopify(data: Path) -> Tree:
    """Shopify's taxonomy in English and Chinese."""
    tree = Tree(defaultdict(list), {}, {})
    for r in rows(data / "taxonomy_shopify/nodes.jsonl.gz"):
        if r["path"].startswith(
            ("Mature", "Bundles", "Gift Cards", "Uncategorized", "Product Add")
        ):
            continue
        parent = r.get("parent") or ""
        tree.children[parent].append(r["id"])
        tree.path[r["id"]] = tuple(r["path"].split(" > "))
        tree.parent[r["id"]] = parent
        if r.get("path_zh"):
            tree.path_zh[r["id"]] = tuple(r["path_zh"].split(" > "))
    return tree


def bestbuy(data: Path) -> Tree:
    """Best Buy's, without shelves that are not about what a thing is."""
    tree = Tree(defaultdict(list), {}, {})
    skip = re.compile(
        r"gift|sale|deal|best buy|clearance|new |top |shop|service|help|\d", re.IGNORECASE
    )
    ids: dict[tuple[str, ...], str] = {(): ""}
    for r in sorted(rows(data / "taxonomy_bestbuy/nodes.jsonl"), key=lambda r: r["depth"]):
        path = tuple(r["path"].split(" > "))
        if skip.search(r["path"]) or path[:-1] not in ids or path in ids:
            continue
        ids[path] = r["id"]
        parent = ids[path[:-1]]
        tree.children[parent].append(r["id"])
        tree.path[r["id"]], tree.parent[r["id"]] = path, parent
    return tree


def pairs(data: Path) -> list[tuple[str, str]]:
    """Return names that translate each other, English and Chinese: Shopify's and the lexicon's."""
    tree = shopify(data)
    found = [(p[-1], tree.path_zh[k][-1]) for k, p in tree.path.items() if k in tree.path_zh]
    for group in lexicon(Held([])).groups:
        for shelf in group:
            for names, names_zh in ((shelf.names, shelf.names_zh), shelf.above[1]):
                found += [(en, zh) for en in names for zh in names_zh]
            # What stands on one shelf is alike: enough to start a character from.
            found += [(en, zh) for zh in shelf.texts_zh for en in shelf.names[:1]]
    return found


# -- dressing up ----------------------------------------------------------------------------

ADJECTIVES = """
new classic deluxe premium compact portable foldable heavy-duty lightweight waterproof wireless
rechargeable adjustable universal professional mini large small extra-long slim soft vintage
modern handmade organic natural cordless stackable washable reusable non-slip quick-dry padded
insulated eco-friendly kids men's women's unisex outdoor indoor travel home office digital smart
electric manual automatic silent durable genuine original replacement refurbished assorted
""".split()
COLOURS = """
black white grey silver red navy blue green pink purple beige brown yellow orange turquoise gold
teal burgundy ivory charcoal khaki clear multicolour
""".split()
MATERIALS = """
cotton steel aluminium plastic leather wood bamboo silicone glass ceramic nylon polyester wool
linen rubber copper canvas suede mesh titanium carbon porcelain
""".split()
SPECS = (
    "{n} pack", "{n} pcs", "pack of {n}", "set of {n}", "x{n}", "{m} ml", "{m}g", "{n} kg", "{m} cm",  # noqa: E501
    "{n}cm x {m}cm", "{n}L", "{n} inch", '{n}"', "{m}W", "{n}V", "size {n}", "M", "XL", "size L",
    "{n}m", "{n} x {m} mm", "2 pk", "({n})", "model {c}{m}", "{c}{n}-{m}", "no. {n}", "{m} pages",
)  # fmt: skip
TAILS = (
    "free shipping", "best price", "gift idea", "with box", "w/ case", "2 year warranty", "new",
    "easy to clean", "for home and office", "UK stock", "as new", "on offer", "bestseller",
    "ideal for beginners", "suitable for all ages", "limited edition", "fast delivery", "B-stock",
)  # fmt: skip
LINES = (
    "Comes in a plain box.", "Made to last.", "Dispatched within two days.", "Hand wash only.",
    "Colour may vary slightly.", "Please check the size before ordering.", "Batteries not included.",  # noqa: E501
    "Keep away from direct sunlight.", "Instructions in five languages.", "A customer favourite.",
)  # fmt: skip
ZH_ADJECTIVES = """
新款 正品 高档 便携 家用 户外 加厚 迷你 大号 小号
折叠 多功能 防水 无线 充电式 儿童 男士 女士 学生 复古
简约 专业 轻便 加大 通用 创意 可爱 透气 静音 智能 耐用 原装 进口 网红 纯色 春秋 冬季 夏季 商用 旅行
""".split()
ZH_COLOURS = "黑色 白色 灰色 红色 蓝色 绿色 粉色 紫色 米色 棕色 黄色 银色 透明 卡其色 藏青".split()
ZH_MATERIALS = (
    "纯棉 不锈钢 铝合金 塑料 真皮 实木 竹制 硅胶 玻璃 陶瓷 尼龙 羊毛 亚麻 橡胶 帆布".split()
)
ZH_SPECS = (
    "{n}只装", "{n}件套", "{n}个", "{m}ml", "{m}克", "{n}斤", "{m}cm", "{n}米", "{n}L", "{n}寸", "{m}W",  # noqa: E501
    "{n}双", "{n}条", "{n}片", "{n}盒", "型号{c}{m}", "{n}卷", "均码", "XL码", "{n}支",
)  # fmt: skip
ZH_TAILS = (
    "包邮", "现货", "送礼", "厂家直销", "官方旗舰店同款", "限时特价", "买一送一", "全国联保", "顺丰发货",  # noqa: E501
    "爆款", "热卖", "送收纳袋", "七天无理由", "2024新款", "家庭装", "礼盒装",
)  # fmt: skip
ZH_LINES = (
    "颜色以实物为准。", "支持七天退换。", "不含电池。", "请按尺码表选购。", "包装随机发货。", "请手洗。",  # noqa: E501
)  # fmt: skip
SYLLABLES = "ba bro ca cor da del el fen gar hal in jo kel li lum ma mon ner no or pa quin ri sol ta tor ul va ven wil xo yar zen".split()  # noqa: E501
ZH_SYLLABLES = "安 柏 川 达 恩 凡 格 瀚 嘉 科 朗 美 诺 欧 普 奇 瑞 森 泰 唯 西 雅 逸 卓".split()


def singular(name: str) -> str:
    """Guess the singular of a category's name, as titles have it."""
    for end, new in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if name.endswith(end):
            return name[: -len(end)] + new
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us")) else name


def brand(draw: random.Random) -> str:
    """Make up a name."""
    return "".join(draw.choices(SYLLABLES, k=draw.randint(2, 3))).title()


def filled(draw: random.Random, pattern: str) -> str:
    """Fill in a specification's numbers."""
    c = draw.choice("ABCDEFGHKLMNPRSTVXZ") + draw.choice("ABCDEFGHKLMNPRSTVXZ")
    return pattern.format(
        n=draw.randint(2, 60),
        m=draw.choice(
            (50, 75, 90, 100, 120, 150, 200, 220, 250, 300, 330, 400, 500, 600, 750, 800, 1000)
        ),
        c=c,
    )


def dress(draw: random.Random, noun: str) -> str:
    """Make a shop title of a category's name."""
    parts = re.split(r",| & | and |/", noun)
    core = draw.choice(parts).strip() if draw.random() < 0.6 else noun
    core = core or noun
    if draw.random() < 0.65:
        core = singular(core)
    before = [brand(draw)] if draw.random() < 0.5 else []
    before += draw.sample(ADJECTIVES, draw.choice((0, 0, 1, 1, 2)))
    before += [draw.choice(MATERIALS)] if draw.random() < 0.15 else []
    after = [filled(draw, draw.choice(SPECS)) for _ in range(draw.choice((0, 1, 1, 2)))]
    after += [draw.choice(COLOURS)] if draw.random() < 0.3 else []
    after += [draw.choice(TAILS)] if draw.random() < 0.15 else []
    draw.shuffle(after)
    title = " ".join([*before, core]) + draw.choice((" ", ", ", " - ", " ")) + " ".join(after)
    title = title.strip(" ,-")
    case = draw.random()
    if case < 0.4:
        title = title.lower()
    elif case < 0.45:
        title = title.upper()
    elif case < 0.7:
        title = title[0].upper() + title[1:].lower()
    if draw.random() < 0.05 and len(title) > 8:
        at = draw.randrange(1, len(title) - 1)
        title = title[:at] + title[at + 1 :]
    return title


def dress_zh(draw: random.Random, noun: str) -> str:
    """The same in Chinese."""
    parts = [p for p in re.split(r"[/、，]|和|与", noun) if p]
    core = draw.choice(parts) if parts and draw.random() < 0.7 else noun
    before = ["".join(draw.choices(ZH_SYLLABLES, k=2))] if draw.random() < 0.4 else []
    before += draw.sample(ZH_ADJECTIVES, draw.choice((0, 1, 1, 2)))
    before += [draw.choice(ZH_MATERIALS)] if draw.random() < 0.15 else []
    after = draw.sample(ZH_ADJECTIVES, draw.choice((0, 0, 1)))
    after += [filled(draw, draw.choice(ZH_SPECS)) for _ in range(draw.choice((0, 1, 1)))]
    after += [draw.choice(ZH_COLOURS)] if draw.random() < 0.3 else []
    after += [draw.choice(ZH_TAILS)] if draw.random() < 0.4 else []
    return "".join([*before, core]) + draw.choice((" ", "")) + draw.choice((" ", "")).join(after)


def item(draw: random.Random, label: Label, *, zh: bool) -> dict[str, str]:
    """Draw an item of a label: its fields."""
    chinese = False
    if label.texts:
        title = draw.choice(label.texts)
        if draw.random() < 0.15:
            title = draw.choice((title.lower(), title.upper(), title.capitalize()))
    else:
        noun, noun_zh = draw.choice(label.nouns)
        chinese = bool(noun_zh) and draw.random() < (0.8 if zh else 0.25)
        title = dress_zh(draw, noun_zh) if chinese else dress(draw, noun)
    name = draw.choices(("title", "text", "name", "query"), (17, 1, 1, 1))[0]
    fields = {name: title[:160]}
    if draw.random() < 0.3:
        said = [draw.choice(ZH_LINES if chinese else LINES)]
        if label.nouns and draw.random() < 0.5:
            said.insert(draw.randrange(2), draw.choice(label.nouns)[1 if chinese else 0])
        fields["description"] = ("" if chinese else " ").join(said)
    if draw.random() < 0.2:
        if chinese:
            found = {"颜色": draw.choice(ZH_COLOURS), "材质": draw.choice(ZH_MATERIALS)}
        else:
            found = {"colour": draw.choice(COLOURS), "material": draw.choice(MATERIALS)}
            found["brand"] = brand(draw)
        keys = draw.sample(sorted(found), draw.randint(1, len(found)))
        fields["attributes"] = "; ".join(f"{k}: {found[k]}" for k in keys)
    return fields


@dataclass
class Size:
    """The most labels on a menu, the exit not counted."""

    most: int = 40


def menus(  # noqa: PLR0912  the choices of one draw, in order
    draw: random.Random, found: list[World], *, per_menu: int, size: Size | None = None
) -> Iterator[Drawn]:
    """Draw menus with items, for ever. `size` may change in between."""
    size = size or Size()
    banned = own_names()
    shares = [w.share for w in found]
    least = 2
    while True:
        most = size.most
        world = draw.choices(found, shares)[0]
        number = draw.randint(least, most if draw.random() < 0.7 else min(most, 12))
        if world.tree is not None:
            labels = world.tree.cut(draw, number + 1)
        else:
            labels = draw.sample(world.labels, min(len(world.labels), number + 1))
            if world.name == "shop32" and draw.random() < 0.3:
                labels = draw.sample(world.labels, min(len(world.labels), most))
        zh = draw.random() < 0.2 and all(x.path_zh for x in labels)
        style = draw.choices(("path", "ends", "leaf"), (4, 3, 2))[0]
        if world.name == "naics":
            style = draw.choices(("two", "leaf"), (1, 2))[0]
        shown: dict[str, Label] = {}
        for label in labels:
            path = label.path_zh if zh else label.path
            if style == "ends" and len(path) > 2:
                path = (path[0], path[-1])
            elif style == "two":
                path = path[-2:]
            elif style == "leaf":
                path = path[-1:]
            if not any(p.lower() in banned for p in path):
                shown.setdefault(" > ".join(path), label)
        if len(shown) <= least:
            continue
        names = list(shown)
        off: list[str] = []  # labels that stay off the menu; their items belong to the exit
        if not (style == "leaf" and isinstance(world.tree, Tree)) and draw.random() < 0.75:
            off = [names.pop() for _ in range(max(1, len(names) // 8))]
        items, answers = [], []
        for _ in range(per_menu):
            if off and draw.random() < 0.15:
                if world.apart and draw.random() < 0.5:
                    items.append({"text": draw.choice(world.apart)})
                else:
                    items.append(item(draw, shown[draw.choice(off)], zh=zh))
                answers.append(None)
            else:
                index = draw.randrange(len(names))
                items.append(item(draw, shown[names[index]], zh=zh))
                answers.append(index)
        yield Drawn(world.name, names, items, answers, zh)
