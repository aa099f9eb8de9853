"""word2vec's word vectors (Mikolov et al., NeurIPS 2013): a sentence as the vectors of its words, from a local file.

As `glove`, with words as HowTo100M's code finds them (apostrophes belong to words). Reads the original binary, such as
GoogleNews-vectors-negative300.bin (three million words and phrases, cased), and the text form.
"""

from __future__ import annotations

from pydantic import Field

from vidloc.core.records import Source
from vidloc.extract.word_vectors import Words, WordVectorOptions, WordVectors


class Word2VecOptions(WordVectorOptions):
    """Options of word2vec."""

    words: Words = Field("apostrophes", description=str(WordVectorOptions.model_fields["words"].description))


class Word2Vec(WordVectors):
    """word2vec's vectors of the words of a sentence."""

    Options = Word2VecOptions
    source = Source(
        paper="Mikolov, Sutskever, Chen, Corrado, Dean. Distributed Representations of Words and Phrases and their "
        "Compositionality. NeurIPS 2013.",
        code="https://code.google.com/archive/p/word2vec/",
        licence="Apache-2.0 (code); no separate licence is stated for the published vectors",
    )
    where = "GoogleNews-vectors-negative300.bin.gz, linked at https://code.google.com/archive/p/word2vec/ (gunzip it)"


ENCODER = Word2Vec
