"""What tells who somebody is, taken out of a text before it is kept.

    write to ann@example.org     write to <email>
    https://a.org/x?token=1      <url>; an address without a user, a query or a fragment stays
    +49 30 1234567               <phone>
    4111 1111 1111 1111          <number>
    DE89 3704 0044 0532 0130 00  <iban>
    10.0.0.1, fe80::1            <ip>

Patterns cannot find names, streets or what somebody says of himself. They would rather take too
much: what looks like a telephone number is one. Dates as 2026-11-26 and 26.11.2026 stay.

Every repetition that may fail is bounded, so that no text takes long.
"""

from __future__ import annotations

import ipaddress
import re

URL = re.compile(r"(?:\b[a-z][a-z0-9+.-]{1,15}://|\bwww\.)[^\s<>\"]+", re.IGNORECASE)
PRIVATE = re.compile(r"[@?#]")
"""What makes an address more than that of a page."""
EMAIL = re.compile(r"[\w.+%'-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
IBAN = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:[A-Z]{2}\d{2}(?:[ -][A-Z0-9]{4}){2,7}(?:[ -][A-Z0-9]{1,3})?"
    r"|[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30})"
    r"(?![A-Za-z0-9])"
)
IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-f]{0,4}:)[0-9a-f:]{3,39}(?:\.\d{1,3}){0,3}(?![\w:])", re.I)
DIGITS = re.compile(r"(?<!\d)[+(]{0,2}\d(?:[ ./()\u2013-]{0,2}\d){6,}")
"""Seven or more digits with what people put between them."""
DATE = re.compile(
    r"(?:\d{4}([-./])\d{1,2}\1\d{1,2}|\d{1,2}([-./])\d{1,2}\2\d{4})(?: \d{1,2})?"
    r"|\d{4}[-\u2013]\d{4}"
)
LONGEST_PHONE = 12
"""Digits of a telephone number written with blanks or signs; more are a card's or an account's."""


def redacted(text: str) -> str:
    """The text with a placeholder for each of the above.

    >>> redacted("Call 030 1234567 or write to ann@example.org.")
    'Call <phone> or write to <email>.'
    """
    text = URL.sub(lambda m: "<url>" if PRIVATE.search(m[0]) else m[0], text)
    text = EMAIL.sub("<email>", text)
    text = IBAN.sub("<iban>", text)
    for pattern in (IPV6, IPV4):
        text = pattern.sub(lambda m: "<ip>" if _is_address(m[0]) else m[0], text)
    return DIGITS.sub(lambda m: _number(m[0]), text)


def _is_address(text: str) -> bool:
    """Whether it is one, and not a time or a version."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> str:
    """A date as it is; else what a run of digits looks like."""
    if DATE.fullmatch(text):
        return text
    count = sum(c.isdigit() for c in text)
    written = not text.isdigit() or text.startswith("0")
    return "<phone>" if written and count <= LONGEST_PHONE else "<number>"
