"""Secrets in texts: detect-secrets' patterns, asking no service, and with evidence that gives nothing away."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from phantom_scanner.report import Finding
from phantom_scanner.texts import Text

# By kind of evidence: these have a shape of their own and are looked for everywhere …
_SHAPED = (
    *(
        "ArtifactoryDetector",
        "AWSKeyDetector",
        "AzureStorageKeyDetector",
        "BasicAuthDetector",
        "DiscordBotTokenDetector",
    ),
    *("GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector", "NpmDetector"),
    *("OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector"),
    *("SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector", "TwilioKeyDetector"),
)
# … and this one goes by the name of a value, which only a named value has.
_NAMED = ("KeywordDetector",)
_OWN = {  # what the fixed set of 2024 does not know yet
    "GitHub fine-grained token": re.compile(r"\bgithub_pat_[A-Za-z0-9_]{60,}"),
    "AWS temporary access key": re.compile(r"\bASIA[0-9A-Z]{16}\b"),
    "Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Anthropic key": re.compile(r"\bsk-ant-[A-Za-z0-9_-]{24,}"),
    "Stripe restricted key": re.compile(r"\b[rs]k_live_[0-9A-Za-z]{20,}"),
}
_PLACEHOLDERS = re.compile(
    r"(?i)^(none|null|true|false|default|auto|unknown|example|changeme|x+|\*+|<.*>|\$\{.*\})$"
)


@cache
def _plugins(names: tuple[str, ...]) -> list[Any]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins: dict[str, Any] = get_mapping_from_secret_type_to_class()
    found = {each.__name__: each for each in plugins.values()}
    return [found[name]() for name in names]


def find(texts: Iterable[Text], limit: int = 100) -> Iterator[Finding]:
    """One finding a secret and place, at most `limit` of them."""
    seen: set[tuple[str, str]] = set()
    for where, line, is_named in texts:
        for kind, value in _in_line(line, is_named):
            if (kind, value) in seen:
                continue
            seen.add((kind, value))
            yield Finding(
                "secret." + re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_"),
                "secret_detection",
                "high",
                where[:200],
                f"{kind}: {redacted(value)}",
                "revoke the secret, remove it from the model's training code or metadata, and save the model again",
            )
            if len(seen) >= limit:
                return


def redacted(value: str) -> str:
    """Enough to recognise a secret one has, nothing to use it by."""
    shown = value[:4] if len(value) >= 16 else ""
    return f"{shown}… ({len(value)} characters)"


def _in_line(line: str, is_named: bool) -> Iterator[tuple[str, str]]:
    for plugin in _plugins(_SHAPED):
        for value in plugin.analyze_string(line):
            yield plugin.secret_type, str(value)
    for kind, pattern in _OWN.items():
        for found in pattern.finditer(line):
            yield kind, found.group()
    if not is_named:
        return
    for plugin in _plugins(_NAMED):
        for value in plugin.analyze_string(line):
            if _is_likely(str(value)):
                yield plugin.secret_type, str(value)


def _is_likely(value: str) -> bool:
    """A value under a telling name that is more than a word: at least 2.5 bits a character."""
    return len(value) >= 6 and not _PLACEHOLDERS.match(value) and entropy(value) >= 2.5


def entropy(value: str) -> float:
    """Shannon's, in bits a character."""
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
