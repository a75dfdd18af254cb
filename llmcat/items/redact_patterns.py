"""The patterns of what is masked, and what tells it from look-alikes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["PATTERNS", "Pattern"]


# What stands beside a number: not a letter or digit, nor one beyond a dash (part numbers), nor
# the other half of a decimal number. Classes are ASCII: Chinese text has no spaces.
_LEFT = r"(?<![0-9A-Za-z])(?<![0-9A-Za-z][-_])(?<![0-9]\.)"


_RIGHT = r"(?![0-9A-Za-z]|[-_][0-9A-Za-z]|\.[0-9])"


_GAP = r"(?: ?[()] ?|[ ./-])?"  # between two digits of a telephone number


# Codes of ISO 3166 by the length of their IBANs (SWIFT's IBAN registry).
_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA",
    30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip


# The issuers' first digits, each with the lengths they give out.
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-59]|[689]\d)\d{11}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}"  # Discover
    r"|35(?:2[89]|[3-8]\d)\d{12,15}"  # JCB
    r"|(?:62\d\d|81\d\d|9558)\d{12,15}"  # UnionPay
    r"|220[0-4]\d{12,15}"  # Mir
    r"|(?:60\d\d|508\d)\d{12}"  # RuPay
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}"  # Maestro
)


_DATE = re.compile(r"(?:19|20)\d\d[-./]\d{1,2}[-./]|\d{1,2}[-./]\d{1,2}[-./](?:19|20)\d\d")


# Words right before a number that say that it is no telephone, SSN or IP address.
_OTHER = re.compile(
    r"(?:(?<![A-Za-z])(?:model|part|sku|item|art|article|style|ref|mpn|oem|upc|ean|gtin|isbn|asin"
    r"|serial|ver|version|firmware|p/n|s/n|(?=order (?:no|nr|number|id|\#))order)"
    r"(?: ?(?:no|nr|number|code|id))?"
    r"|型号|货号|款号|料号|编号|条码|条形码|订单号?|单号|版本号?|序列号|固件)[.:# ]{0,3}$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A rule. What the group `mask` of a form finds is masked if `check` agrees."""

    kind: str
    what: str
    rule: str
    forms: tuple[re.Pattern[str], ...]
    check: Callable[[re.Match[str]], bool]


def _forms(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(p, re.ASCII | re.IGNORECASE) for p in patterns)


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", match["mask"]).upper()


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: from the right, every second digit is doubled, its digits added."""
    doubled = sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (doubled + sum(int(d) for d in digits[::-2])) % 10 == 0


def _gtin(digits: str) -> bool:
    """GS1: from the right, every second digit counts three times."""
    return (3 * sum(int(d) for d in digits[-2::-2]) + sum(int(d) for d in digits[::-2])) % 10 == 0


def _mod_97(iban: str) -> bool:
    """ISO 13616: the first four last, letters from 10 to 35; the remainder by 97 is 1."""
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _mod_11_2(number: str) -> bool:
    """ISO 7064, mod 11-2, as GB 11643 has it; X is ten."""
    values = [10 if c == "X" else int(c) for c in number]
    return sum(v * pow(2, i, 11) for i, v in enumerate(reversed(values))) % 11 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match)
    bar_code = len(digits) in {13, 14} and _gtin(digits)
    return bool(_ISSUER.fullmatch(digits)) and _luhn(digits) and not bar_code


def _is_ip(match: re.Match[str]) -> bool:
    try:
        ipaddress.ip_address(match["mask"])
    except ValueError:
        return False
    return _not_other(match)


def _is_ssn(match: re.Match[str]) -> bool:
    """Numbers that were never given out are none: area 000, 666 and 9xx, group 00, serial 0000."""
    area, group, serial = (d := _digits(match))[:3], d[3:5], d[5:]
    given = area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"
    return given and _not_other(match)


def _not_other(match: re.Match[str]) -> bool:
    """Whether no word before it says that it is a part number or a version."""
    start = match.start("mask")
    return not _OTHER.search(match.string[max(0, start - 24) : start])


def _always(_: re.Match[str]) -> bool:
    return True


PATTERNS = (
    Pattern(
        "login",
        "user and password in an address: `https://user:pw@host`",
        "between `://` and the last `@` before a `/`",
        _forms(r"""(?<=://)(?P<mask>[^\s/?#\[\]<>"']{1,256})@"""),
        _always,
    ),
    Pattern(
        "login",
        "a key in an address: `?token=...`",
        "the name is `token`, `password`, `api_key`, `secret`, `signature` or close to it",
        _forms(
            r"[?&](?:(?:access|auth|refresh|id)?_?token|password|passwd|pwd|api_?key|auth"
            r"""|(?:client_)?secret|sig|signature)=(?P<mask>[^\s&#\[\]<>"']{1,512})"""
        ),
        _always,
    ),
    Pattern(
        "email",
        "email addresses: `name@example.com`",
        "Latin letters, a full domain; not `icon@2x.png`",
        _forms(
            "(?P<mask>[0-9A-Za-z_\u00c0-\u024f][0-9A-Za-z_.%+'\u00c0-\u024f-]{0,63}"
            r"@(?![1-4]x\.)(?:[0-9A-Za-z" + "\u00c0-\u024f" + r"][0-9A-Za-z"
            "\u00c0-\u024f" + r"-]{0,62}\.){1,8}(?:xn--[a-z0-9-]{2,59}|[a-z]{2,24}))"
        ),
        _always,
    ),
    Pattern(
        "iban",
        "bank accounts (IBAN), with or without spaces",
        "the length of the country's, mod 97 right",
        _forms(
            r"(?<![0-9A-Za-z])(?P<mask>(?:"
            + "|".join(
                rf"(?:{codes.replace(' ', '|')})\d\d(?:[ -]?[0-9A-Z]){{{length - 4}}}"
                for length, codes in _IBAN_LENGTHS.items()
            )
            + r"))(?![0-9A-Za-z])"
        ),
        lambda match: _mod_97(_digits(match)),
    ),
    Pattern(
        "id",
        "Chinese resident ids, 18 digits or 17 and X",
        "a day of the years 1800 to 2099 in its place, the check digit right",
        _forms(
            r"(?<![0-9A-Za-z])(?P<mask>[1-9]\d{5}[ -]?(?:18|19|20)\d\d(?:0[1-9]|1[0-2])"
            r"(?:0[1-9]|[12]\d|3[01])[ -]?\d{3}[0-9X])(?![0-9A-Za-z])"
        ),
        lambda match: _mod_11_2(_digits(match)),
    ),
    Pattern(
        "id",
        "US social security numbers",
        "as `123-45-6789`, or nine digits after `SSN` or `social security number`; "
        "not a number that is never given out",
        _forms(
            rf"{_LEFT}(?P<mask>\d{{3}}-\d\d-\d{{4}}){_RIGHT}",
            r"(?<![A-Za-z])(?:SSN|social security(?: number| no)?)[.:# ]{0,3}"
            rf"(?P<mask>\d{{3}}[ -]?\d\d[ -]?\d{{4}}){_RIGHT}",
        ),
        _is_ssn,
    ),
    Pattern(
        "card",
        "payment cards, in one piece or in the groups printed on them",
        "first digits and length of a known issuer, Luhn right; 13 or 14 digits only where they "
        "are no valid GTIN",
        _forms(
            *(
                rf"(?<![0-9A-Za-z])(?<![0-9][-.])(?P<mask>{form})(?![0-9A-Za-z]|\.[0-9]|-[0-9]{{4}})"
                for form in (
                    r"\d{13,19}",
                    r"\d{4}(?P<gap>[ -])(?:\d{4}(?P=gap)){3}\d{3}|\d{6}[ -]\d{13}",
                    r"\d{4}(?P<gap>[ -])(?:\d{4}(?P=gap)\d{4}(?P=gap)\d{4}|\d{6}(?P=gap)\d{4,5})",
                )
            )
        ),
        _is_card,
    ),
    Pattern(
        "ip",
        "IP addresses, version 4",
        "valid; not after `v`, `version`, `firmware` and the like",
        _forms(
            r"(?<![0-9A-Za-z.])(?<![A-Za-z][-_])(?P<mask>\d{1,3}(?:\.\d{1,3}){3})"
            r"(?![0-9A-Za-z]|\.[0-9]|[-_][A-Za-z])"
        ),
        _is_ip,
    ),
    Pattern(
        "ip",
        "IP addresses, version 6",
        "valid, and the first group has four digits",
        _forms(
            r"(?<![0-9A-Za-z:.])(?P<mask>[0-9A-F]{4}:(?:[0-9A-F]{0,4}:){1,6}[0-9A-F]{0,4})"
            r"(?![0-9A-Za-z:])"
        ),
        _is_ip,
    ),
    Pattern(
        "phone",
        "Chinese mobile numbers: `13812345678`",
        "11 digits from 13 to 19, alone or as 3-4-4, with or without 86; "
        "not after `SKU`, `model`, `单号` and the like",
        _forms(
            rf"{_LEFT}(?<!\+)(?P<mask>(?:(?:\+|00)?86[ -]?)?"
            rf"1[3-9]\d(?P<gap>[ -]?)\d{{4}}(?P=gap)\d{{4}}){_RIGHT}"
        ),
        _not_other,
    ),
    Pattern(
        "phone",
        "Chinese landlines: `010-12345678`",
        "an area code, a dash or brackets, 7 or 8 digits; not after `SKU` and the like",
        _forms(
            rf"{_LEFT}(?P<mask>(?:\((?P<in>0(?:10|2\d|[3-9]\d\d))\)[ -]?|0(?:10|2\d|[3-9]\d\d)-)"
            rf"[1-9]\d{{6,7}}(?:-\d{{1,6}})?){_RIGHT}"
        ),
        _not_other,
    ),
    Pattern(
        "phone",
        "national forms: `(212) 555-0123`, `020 7946 0958`, `01 23 45 67 89`, `030/1234567`, "
        "`090-1234-5678`",
        "grouped as in North America (no spaces alone), the United Kingdom, France, Germany, Japan "
        "and Korea; not after `SKU` and the like",
        _forms(
            *(
                rf"{_LEFT}(?P<mask>{form}){_RIGHT}"
                for form in (
                    r"(?:\+?1[-. ])?(?:\([2-9]\d\d\)[ -]?|[2-9]\d\d[-.])[2-9]\d\d[-. ]\d{4}",
                    r"02\d \d{4} \d{4}|0(?:11\d|1\d1) \d{3} \d{4}|0[17]\d{3} \d{6}"
                    r"|07\d{3} \d{3} \d{3}",
                    r"0[1-9](?P<gap>[ .-])\d\d(?:(?P=gap)\d\d){3}",
                    r"0[1-9]\d{1,4}/\d{6,8}",
                    r"0(?:\d|[15789]0)-\d{4}-\d{4}",
                )
            )
        ),
        _not_other,
    ),
    Pattern(
        "phone",
        "international numbers: `+49 30 123456`",
        "a plus, 8 to 15 digits, at most one separator or bracket between two",
        _forms(
            rf"(?<![0-9A-Za-z+])(?P<mask>\+\(?[1-9](?:{_GAP}\d){{7,14}})(?![0-9A-Za-z]|\.[0-9])"
        ),
        _always,
    ),
    Pattern(
        "phone",
        "other numbers of 7 to 15 digits",
        "after `tel`, `call`, `whatsapp`, `致电`, `联系电话`, `手机号`; after `phone`, `mobile`, "
        "`fax`, `contact`, `电话`, `手机` with a colon or `number`; not a date",
        _forms(
            r"(?:(?<![A-Za-z])(?:tel(?:ephone)?|call(?: me| us)?(?: at| on)?|whats ?app)[.:]{0,2}"
            r"|(?:致电|拨打|来电|联系电话|客服电话|手机号码?|电话号码?):?"
            r"|(?:(?<![A-Za-z])(?:(?:cell ?)?phone|mobile|fax|contact)"
            r"|电话|手机|传真|热线|联系方式)(?: ?:| (?:no|number|nr)[.:]{0,2}))"
            rf" ?(?P<mask>\+?\(?\d(?:{_GAP}\d){{6,14}})(?![0-9A-Za-z])"
        ),
        lambda match: not _DATE.search(match["mask"]),
    ),
)
