"""English for the names of cells: articles, plurals, capitals and sentences.

Plain functions on strings; imports nothing of this package.
"""

import re

# Capitals that are said letter by letter and start with a vowel sound: "an NK cell", but "a CD4 T cell".
_VOWEL_LETTERS = frozenset("AEFHILMNORSX")
# Capitals that are said as a word.
_SPOKEN_ACRONYMS = frozenset({"FOXP", "LAMP", "MAIT", "NAIVE", "RORA", "RORB", "SOX"})
_YOU_SOUND = re.compile(r"(?:uni|ure|uro|ute|use|usu|eu|one\b|once)", re.IGNORECASE)
# Abbreviations whose full stop ends no sentence.
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|approx|resp|abbr|et al|Jr|Fig|spp|sp|ca)|\b[A-Z])\.$")
_GENE_WORD = re.compile(r"\b(?:genes|transcripts)\b", re.IGNORECASE)

# "cells of the the kidney". "had had" may be meant.
_DOUBLED_WORD = re.compile(
    r"\b(a|an|and|are|by|for|from|in|is|of|on|or|that|the|to|which|with) \1\b(?!-)", re.IGNORECASE
)
# Only where the spelling leaves no doubt; "A" within a sentence may be a letter: "type A enteroendocrine cell".
_ARTICLE = r"(\ba|^A|(?<=\. )A)"
_A_FOR_AN = re.compile(rf"{_ARTICLE} (?=(?:[ai]|o(?!ne\b|nce)|e(?!u))[a-z]{{2}})")
_AN_FOR_A = re.compile(rf"{_ARTICLE}n (?=[bcdfgjklmnpqrstvwxyz][a-z]{{2}})")

_HEAD_NOUN = re.compile(
    r"(?P<head>.*?)(?P<rest>(?: (?:of|in|from|with|on|that) .*| \(.*|(?<=cell|cyte|last|phil|hage|uron), .*)?)$"
)


def article(phrase: str) -> str:
    """Returns "a" or "an" as the first sound of `phrase` asks."""
    word = re.match(r"[^\W_]*", phrase).group()
    if not word:
        return "a"
    spelled_out = re.match(r"[A-Z]+(?=[A-Z\d]|$)|[a-z](?=[A-Z])", word)
    if spelled_out and spelled_out.group() not in _SPOKEN_ACRONYMS:
        return "an" if word[0].upper() in _VOWEL_LETTERS else "a"
    if word[0].isdigit():
        return "an" if re.match(r"8|11(?!\d)|18(?!\d)", word) else "a"
    if _YOU_SOUND.match(word):
        return "a"
    return "an" if word[0].lower() in "aeiou" or re.match("hour|honest|heir", word) else "a"


def with_article(phrase: str) -> str:
    """Returns `phrase` behind its article: "an NK cell"."""
    return f"{article(phrase)} {phrase}"


def plural(phrase: str) -> str:
    """
    Returns the plural of a cell type's name.

    The head noun changes, not what qualifies it: "endothelial cells of lymphatic vessel", "innate
    lymphoid cells, human", but "CD4-positive, alpha-beta T cells".
    """
    head, rest = _HEAD_NOUN.match(phrase).group("head", "rest")
    if re.search(r"[^aeiou]y$", head):
        return f"{head[:-1]}ies{rest}"
    if re.search(r"(?:s|x|ch|sh)$", head):
        return f"{head}es{rest}"
    return f"{head}s{rest}"


def singular(phrase: str) -> str:
    """Returns the singular of a name whose last word is a plural of cells ("NK cells", "Monocytes")."""
    return re.sub(r"(?<=cell|cyte|last|phil|hage|uron|elet|itor)s$", "", phrase, flags=re.IGNORECASE)


def capitalised(text: str) -> str:
    """Returns `text` with a capital first letter, but leaves symbols such as "pDC" and "p53" as they are."""
    if re.match(r"[a-z]+[A-Z\d]", text):
        return text
    return text[:1].upper() + text[1:]


def lower_words(text: str, proper_nouns: frozenset[str] = frozenset()) -> str:
    """
    Lower-cases plain capitalised words for use in mid-sentence.

    Abbreviations ("NK", "CD8", "Th1"), symbols and the names in `proper_nouns` ("Langerhans") stay as they are.
    """

    def lower(match: re.Match) -> str:
        word = match.group()
        return word if word in proper_nouns else word.lower()

    return re.sub(r"(?<![\w+])[A-Z][a-z]{2,}(?![\w+])", lower, text)


def tidy(text: str) -> str:
    """Puts running text on one line and mends slips of the pen: articles, doubled words and stops, stray spaces."""
    text = _DOUBLED_WORD.sub(r"\1", " ".join(text.replace("\u200b", "").split()))
    text = _A_FOR_AN.sub(r"\1n ", text)
    text = _AN_FOR_A.sub(r"\1 ", text)
    return re.sub(r"(?<!\.)\.\.(?!\.)", ".", re.sub(r" +(?=[.,;:](?:\s|$))", "", text))


def speaks_of_genes(sentence: str) -> bool:
    """Tells whether a sentence says something of "genes" or "transcripts", as statements on expression do."""
    return _GENE_WORD.search(sentence) is not None


def sentences(text: str) -> list[str]:
    """Splits running text at full stops, exclamation and question marks, but not after "e.g." or an initial."""
    parts: list[str] = []
    start = 0
    for match in re.finditer(r"(?<=[.!?])\s+(?=[A-Z\d(])", text):
        if not _ABBREVIATION.search(text[start : match.start()]):
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def listing(items: list[str]) -> str:
    """Joins items as English does: "A, B and C"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
